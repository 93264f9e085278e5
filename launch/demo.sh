#!/usr/bin/env bash
# The life of a model, from nothing to a generated world. Every line is skipped when its result is there.
set -euo pipefail

config=${1:-configs/demo.yaml}
run=${2:-runs/demo}

unimodel data record "$config"                  # play episodes, write shards
unimodel data verify "$run/data"                # every byte, every picture
unimodel tokenizer train "$config"              # pictures and words -> codes
unimodel data tokenize "$config"
unimodel train "$config"                        # stages 1 to 4
unimodel eval "$run"                            # held-out figures beside their baselines
unimodel export "$run" --out "$run/export"      # a Hugging Face folder, reloaded in a clean process
unimodel report "$run"                          # curves and pictures: report.html
unimodel summary "$run"                         # the table, and where everything lies
