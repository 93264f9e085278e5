#!/usr/bin/env bash
# The world of a trained run: how good a world it is, and one that goes on when its process has ended.
set -euo pipefail

run=${1:-runs/demo}

unimodel eval --stage world "$run"              # the score card: persistence, agency, emergence ... each with a gate
unimodel report "$run"                          # curves and pictures again, and the card
[ -d "$run/worlds/garden" ] || unimodel world create "$run" garden
unimodel world step "$run" garden --actions left,forward    # another process, the same world, two ticks later
unimodel world show "$run" garden
