#!/bin/sh
# install.sh PYTHON ENVIRONMENT PACKAGE...: an environment with vLLM on the CPU and this package, once.
# Fails where the packages are not to be had, with the reason in ENVIRONMENT.log.
set -e
python=$1 environment=$2
shift 2
[ -e "$environment/installed" ] && exit 0
echo "installing $* into $environment"
{
    "$python" -m venv "$environment"
    pip="$environment/bin/python -m pip"
    for package in "$@"; do $pip install -q --no-compile "$package"; done
    # CUDA builds, which do not load beside a CPU build of torch; torchvision needs a little help
    $pip uninstall -q -y torchaudio torchcodec
    packages=$("$environment/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
    cp "$(dirname "$0")/torchvision_on_cpu.py" "$packages"
    echo "import torchvision_on_cpu" >"$packages/torchvision_on_cpu.pth"
    $pip install -q "setuptools>=64" wheel
    ZOPRUNE_PURE_PYTHON=1 $pip install -q --no-build-isolation --no-deps -e .
    "$environment/bin/python" -c "import vllm, ray"
    touch "$environment/installed"
} >"$environment.log" 2>&1
