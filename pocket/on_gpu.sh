#!/bin/sh
# One stage of training on a machine with a GPU and no network: `sh pocket/on_gpu.sh STAGE`, each within ten minutes.
# Reads the repository and the carried folders .pocket and .whl; leaves in $OUT what shall come back.
# TINY=1 runs the same with sizes for a CPU, only to see that everything runs. README.md, "On a GPU".
set -eu
stage=$1
work=${POCKET_WORK:-/tmp/pocket-work}
OUT=${OUT:-$work/out}
python=${PYTHON:-python3}
options="--preset gpu --work $work"
minutes() { if [ -n "${TINY:-}" ]; then echo 0.2; else echo "$1"; fi; }
compile=--compile
if [ -n "${TINY:-}" ]; then options="$options --tiny --device cpu" compile=; fi

mkdir -p "$work" "$OUT"
if ls .whl/*.whl >/dev/null 2>&1 && [ ! -d "$work/site" ]; then
  $python -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" .whl/*.whl
fi
export PYTHONPATH="$work/site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
$python pocket/carry.py bring $options

case $stage in
  check)  # a minute: the machine, the pack, the speed
    $python pocket/autoencoder.py --check $options
    $python pocket/speed.py $options
    ;;
  autoencoder)
    $python pocket/autoencoder.py $options --minutes "$(minutes 8)"
    cp "$work/autoencoder.png" "$OUT/"
    $python pocket/carry.py send "$OUT" $options
    ;;
  decoder)  # latents as they are: may follow the denoiser
    $python pocket/autoencoder.py $options --decoder --minutes "$(minutes 8)"
    cp "$work/autoencoder.png" "$OUT/"
    $python pocket/carry.py send "$OUT" $options
    ;;
  denoiser)  # composes the bank, then trains; run again, it goes on
    $python pocket/denoiser.py train $options --minutes "$(minutes 8.5)" --sheet 100 --every 20 $compile
    cp "$work/samples.png" "$OUT/"
    $python pocket/carry.py send "$OUT" $options
    ;;
  evaluate)
    $python pocket/export.py "$work/shipped" $options
    $python pocket/evaluate.py "$work/shipped" $options ${TINY:+--prompts 2 --seeds 1} --batch 24
    cp "$work/evaluation.md" "$work/evaluation.png" "$OUT/"
    ;;
  *)
    echo "pocket: no stage $stage; there are check, autoencoder, decoder, denoiser, evaluate" >&2
    exit 2
    ;;
esac
