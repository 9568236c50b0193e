"""Random numbers of a bounded Zipf distribution, in constant memory."""

import numpy as np
from numpy.typing import NDArray

EXPONENT = 0.99
"""`ZipfianGenerator.ZIPFIAN_CONSTANT` of YCSB, the usual benchmark of key-value stores (brianfrankcooper/YCSB on GitHub)."""


def draw_zipf(generator: np.random.Generator, numbers: int, count: int, exponent: float = EXPONENT) -> NDArray[np.int64]:
    """Draw `count` of the numbers 1 to `numbers`; k has a probability proportional to `1 / k ** exponent`, exponent != 1.

    Rejection-inversion (Hörmann and Derflinger, ACM TOMACS 6(3), 1996) needs no table of the numbers: x ** -exponent is drawn
    by its integral, rounded to k, and kept with the share of k's interval that is k's probability.
    """
    rest = 1 - exponent

    def area(x: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """The integral of x ** -exponent from 1 to x."""
        return np.asarray(np.expm1(rest * np.log(x)) / rest)

    low, high = area(1.5) - 1, area(numbers + 0.5)
    drawn: NDArray[np.int64] = np.empty(0, np.int64)
    while (missing := count - len(drawn)) > 0:
        areas = generator.uniform(low, high, missing)
        rounded = np.clip(np.rint(np.exp(np.log1p(rest * areas) / rest)), 1, numbers)
        kept = areas >= area(rounded + 0.5) - rounded**-exponent
        drawn = np.concatenate((drawn, rounded[kept].astype(np.int64)))
    return drawn
