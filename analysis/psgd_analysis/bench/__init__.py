"""`psgd bench`: the cost of updates and of P g, compared with the memory bandwidth and with peers.

`costs` says how many bytes must be moved; `contenders` and `peers` set up what is timed; `timing` measures
in interleaved rounds and refuses what is too noisy; `run` goes through the settings; `models` measures whole
steps beside gradient steps; `report` and `figures` present it; `command` is the command line.
"""
