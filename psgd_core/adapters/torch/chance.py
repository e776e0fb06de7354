"""A coin that is tossed by its number, so that it falls the same however often it is asked."""


def toss(seed: int, iteration: int) -> float:
    """Return a number in [0, 1) that looks random: SplitMix64, twice; a generator takes longer to set up."""
    word = seed
    for part in (1, iteration + 1):
        word = (word + part * 0x9E3779B97F4A7C15) % 2**64
        word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
        word ^= word >> 31
    return (word >> 11) / 2**53
