"""The README's code runs as printed, and what it says of the result is so."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_first_example_converges():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    scope: dict = {}
    exec(compile(blocks[0], str(README), "exec"), scope)
    distance = float(scope["psgd"].convergence.distance(scope["Q"], scope["target"]))
    claimed = float(re.search(r"# below (\S+)", blocks[0]).group(1))
    assert distance < claimed
