"""`psgd bench`: the cost of updates, of P g and of whole steps, beside the memory bandwidth and beside peers.

`costs` says how many bytes must be moved; `contenders` and `peers` set up what is timed; `timing` measures
in interleaved rounds and refuses what is too noisy; `budget` shares out the seconds of a run; `run` measures
a setting, `steps` the steps of a model (`model`, `models`, `module_models`); `report`, `pages` and `figures`
present what was measured, `output` prints and writes it; `command` is the command line.
"""
