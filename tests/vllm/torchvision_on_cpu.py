"""Lets a CUDA build of torchvision load beside a CPU build of torch.

Package indexes that offer a CPU build of torch may offer torchvision for CUDA only; it registers
fake kernels of operators that its library, which does not load, would define. ``make test-vllm``
puts this module and a ``.pth`` file that imports it into the environment, so that it works in every
process of a server. It does nothing until torchvision is imported.
"""

import importlib.abc
import importlib.metadata
import sys


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            built_for_cpu = importlib.metadata.version("torchvision").endswith("+cpu")
            if torch.version.cuda is None and not built_for_cpu:
                library = torch.library.Library("torchvision", "DEF")
                for operator in ("nms", "qnms"):
                    library.define(
                        f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                    )
                torch._torchvision_on_cpu = library
        return None


sys.meta_path.insert(0, _BeforeTorchvision())
