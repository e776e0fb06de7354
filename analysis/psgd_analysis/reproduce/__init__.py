"""The paper's experiments, beside baselines from well-kept libraries: `psgd reproduce`.

An experiment (`experiment`, one file each in `experiments`) says its cells and its claims. A run of a cell
with a seed is a `Training` that `loop` takes from part to part and leaves as one line in a book of `records`;
tables, figures and verdicts are made from records alone.
"""
