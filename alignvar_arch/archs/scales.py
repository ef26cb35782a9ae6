"""Scale geometry: how the ten token maps of a picture lie in one sequence. Nothing else in the package knows this."""
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property


@dataclass(frozen=True)
class ScaleSchedule:
    """The sides of the token maps r_1 … r_K, from coarse to fine (paper, "Task").

    ``sides[-1]`` is the side of the latent. A schedule of K scales has ``sum(side²)`` tokens in all, laid scale after
    scale, each row-major. Scales are counted from 0 in code (scale ``k`` here is k + 1 in the paper).

    Args:
        sides: strictly growing, beginning with 1, for example (1, 2, 3, 4, 6, 9, 13, 18, 24, 32).

    Raises:
        ValueError: a schedule that does not begin with 1 or does not grow.
    """

    sides: tuple[int, ...]

    def __post_init__(self):
        object.__setattr__(self, "sides", tuple(int(side) for side in self.sides))
        if len(self.sides) < 2 or self.sides[0] != 1:
            raise ValueError(f"a scale schedule has at least two sides and begins with 1, not {self.sides}")
        if any(b <= a for a, b in zip(self.sides, self.sides[1:], strict=False)):
            raise ValueError(f"the sides of a scale schedule must grow strictly, not {self.sides}")

    def __len__(self) -> int:
        return len(self.sides)

    @property
    def last(self) -> int:
        """Index of the finest scale."""
        return len(self.sides) - 1

    @property
    def latent_side(self) -> int:
        """Side of the latent, and of the finest token map."""
        return self.sides[-1]

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each scale, side²."""
        return tuple(side * side for side in self.sides)

    @cached_property
    def tokens(self) -> int:
        """Tokens of all scales together, L."""
        return sum(self.lengths)

    @cached_property
    def spans(self) -> tuple[slice, ...]:
        """Where each scale lies in the sequence of L tokens."""
        starts = [sum(self.lengths[:k]) for k in range(len(self))]
        return tuple(slice(start, start + length) for start, length in zip(starts, self.lengths, strict=True))

    def phi_index(self, count: int) -> tuple[int, ...]:
        """Return which of ``count`` shared phi convolutions serves each scale: the nearest of ``count`` ticks.

        The ticks lie evenly from 1/(3·count) to 1 − 1/(3·count), a scale at k/(K − 1); exact fractions, ties upwards,
        which for K = 10 and four phis gives the table of the public checkpoints, 0 0 1 1 1 2 2 3 3 3.
        """
        edge = Fraction(1, 3 * count)
        ticks = [edge + (1 - 2 * edge) * Fraction(i, max(count - 1, 1)) for i in range(count)]
        return tuple(min(range(count), key=lambda i: (abs(ticks[i] - Fraction(k, self.last)), -i))
                     for k in range(len(self)))
