"""``Trainer`` and trl's ``SFTTrainer``: the loss and the metrics of inputs pruned by hand."""

import copy

import pytest
import torch
import zoprune

pytest.importorskip("accelerate", reason="pip install 'zoprune_kernels[toolchain]'")
import transformers

from tests.hf.hand_pruned import hand_pruned, logits_of
from tests.hf.models import CASES, IMAGE, make, prompt

pytestmark = pytest.mark.usefixtures("one_thread")
CASE = CASES[0]
ROWS = 2


class Batch:
    """Two rows with a picture each, and what they are without the dropped columns."""

    def __init__(self):
        self.model = make(CASE)
        self.inputs = prompt(CASE, self.model, (1,) * ROWS)
        ids, mask = self.inputs["input_ids"], self.inputs["attention_mask"]
        first = mask * mask.cumsum(1) == 1  # which padding would have to predict
        self.labels = ids.masked_fill((ids == IMAGE) | (mask == 0) | first, -100)
        pruned = zoprune.prune(copy.deepcopy(self.model), 6)
        with torch.no_grad():
            pruned(**self.inputs)
            report = zoprune.report(pruned)
            rows = hand_pruned(CASE, self.model, self.inputs, report.kept)
            # rows of different lengths, without padding
            self.logits = [logits_of(self.model, row) for row in rows]
        kept = report.columns & mask.bool()
        self.short = [labels[columns] for labels, columns in zip(self.labels, kept, strict=True)]

    def collate(self, items):
        rows = torch.tensor([item["row"] for item in items])
        return {n: t[rows] for n, t in {**self.inputs, "labels": self.labels}.items()}

    def pairs(self, shift):
        """(logits, labels) of all rows, each logit beside the label that it is to predict."""
        cut = int(shift)
        logits = torch.cat([rows[: len(rows) - cut] for rows in self.logits])
        return logits, torch.cat([labels[cut:] for labels in self.short])

    def loss(self, shift=True, smoothing=0.0):
        return torch.nn.functional.cross_entropy(*self.pairs(shift), label_smoothing=smoothing)

    def accuracy(self):
        logits, labels = self.pairs(True)
        right = logits.argmax(-1) == labels
        return float(right[labels != -100].float().mean())


@pytest.fixture(scope="module")
def batch():
    return Batch()


def arguments(folder, cls=transformers.TrainingArguments, **options):
    return cls(
        output_dir=str(folder),
        per_device_train_batch_size=ROWS,
        per_device_eval_batch_size=ROWS,
        max_steps=1,
        logging_steps=1,
        learning_rate=0.0,
        report_to=[],
        use_cpu=True,
        save_strategy="no",
        remove_unused_columns=False,
        disable_tqdm=True,
        **options,
    )


def trainer_of(batch, folder, full_logits, **options):
    smoothing = options.pop("label_smoothing_factor", 0.0)
    model = zoprune.prune(copy.deepcopy(batch.model), 6, full_logits=full_logits)
    rows = [{"row": row} for row in range(ROWS)]
    return transformers.Trainer(
        model=model,
        args=arguments(folder, label_smoothing_factor=smoothing),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=batch.collate,
        **options,
    )


def logged(trainer):
    trainer.train()
    return next(entry["loss"] for entry in trainer.state.log_history if "loss" in entry)


def test_trainer(batch, tmp_path):
    trainer = trainer_of(batch, tmp_path, False)
    assert logged(trainer) == pytest.approx(float(batch.loss()), rel=1e-3)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(batch.loss()), rel=1e-4)


def test_trainer_with_label_smoothing(batch, tmp_path):
    trainer = trainer_of(batch, tmp_path, True, label_smoothing_factor=0.2)
    # transformers shifts the labels of what it knows as causal language models only
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    expected = float(batch.loss(type(trainer.model).__name__ in KNOWN.values(), 0.2))
    got = trainer.evaluate()["eval_loss"]
    assert got == pytest.approx(expected, rel=1e-4)
    assert logged(trainer) == pytest.approx(got, rel=1e-3)


def test_trainer_with_metrics_and_a_loss_of_its_own(batch, tmp_path):
    def accuracy(prediction):
        given = prediction.predictions  # further outputs beside the logits
        logits = torch.as_tensor(given[0] if isinstance(given, tuple) else given)
        labels = torch.as_tensor(prediction.label_ids)
        right = logits[:, :-1].argmax(-1) == labels[:, 1:]
        return {"accuracy": float(right[labels[:, 1:] != -100].float().mean())}

    def own(outputs, labels, num_items_in_batch=None):
        logits = outputs["logits"][:, :-1].flatten(0, 1)
        return torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten())

    trainer = trainer_of(batch, tmp_path, True, compute_metrics=accuracy, compute_loss_func=own)
    # some versions of transformers gather the cache too, pruned or not, which accelerate refuses
    metrics = trainer.evaluate(ignore_keys=["past_key_values", "cache"])
    assert metrics["eval_accuracy"] == pytest.approx(batch.accuracy())
    assert metrics["eval_loss"] == pytest.approx(float(batch.loss()), rel=1e-4)


@pytest.mark.parametrize("options", [{}, dict(label_smoothing_factor=0.2)], ids=["nll", "smooth"])
def test_sft_trainer(batch, tmp_path, options):
    trl = pytest.importorskip("trl", reason="pip install 'zoprune_kernels[toolchain]'")
    datasets = pytest.importorskip("datasets")
    from tests.hf.checkpoint import tokenizer_of_words

    model = zoprune.prune(copy.deepcopy(batch.model), 6, full_logits=bool(options))
    trainer = trl.SFTTrainer(
        model=model,
        args=arguments(
            tmp_path,
            trl.SFTConfig,
            bf16=False,
            gradient_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            **options,
        ),
        train_dataset=datasets.Dataset.from_dict({"row": list(range(ROWS))}),
        data_collator=batch.collate,
        processing_class=tokenizer_of_words(),
    )
    expected = float(batch.loss(True, options.get("label_smoothing_factor", 0.0)))
    assert logged(trainer) == pytest.approx(expected, rel=1e-3)
    entry = next(e for e in trainer.state.log_history if "mean_token_accuracy" in e)
    assert entry["mean_token_accuracy"] == pytest.approx(batch.accuracy(), abs=1e-4)
