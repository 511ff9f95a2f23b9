#!/bin/sh
# newer.sh ENVIRONMENT VERSION: ENVIRONMENT/newer, to be first on PYTHONPATH: the Python of a vLLM that has no
# build for CPUs over the compiled part of the one that ENVIRONMENT has.
set -e
environment=$1 version=$2 newer=$1/newer
[ -e "$newer/vllm-$version+cpu.dist-info" ] && exit 0
rm -rf "$newer"
mkdir -p "$newer"
packages=$("$environment/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
"$environment/bin/python" -m pip download -q --no-deps --only-binary :all: -d "$newer" "vllm==$version"
"$environment/bin/python" -m zipfile -e "$newer"/vllm-*.whl "$newer"
rm -rf "$newer"/*.whl "$newer"/*.dist-info
find "$newer" -name '*.so' -delete
"$environment/bin/python" -m pip install -q --no-deps --target "$newer" orjson  # that 0.33 also needs
(cd "$packages" && find vllm -name '*.so' | tar cf - -T -) | tar xf - -C "$newer"
mkdir "$newer/vllm-$version+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" \
    >"$newer/vllm-$version+cpu.dist-info/METADATA"
