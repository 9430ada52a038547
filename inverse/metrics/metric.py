"""The one concept of a metric: a function of a result, and how its value is ranked and printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from inverse.errors import PluginError

if TYPE_CHECKING:
    from inverse.result import Result


@dataclass(frozen=True)
class Metric:
    """A score of a result, and how its values are ranked and printed.

    Args:
        function: from a `Result` to its score; None where the metric does not apply.
        label: name in tables and plots.
        better: "higher", "lower" or the ideal value; None if no value is better than another,
            so that the metric is printed but never ranked.
        within: distances to the best value (to the ideal, if there is one) that count as solved,
            from strict to lenient.
        relative: whether these distances are fractions of the best value, not in units of the
            metric.
        unit: of the value; empty for a pure number.
        digits: decimals of a printed value.
        cost: "low", or "high" if the function takes seconds or imports a package that does;
            `inverse solve` computes the metrics of low cost only.
        shown: whether the table of `inverse solve` has a column for the metric: in every table,
            in none, or only where the results are pictures or only where they are fields.
        shown_digits: decimals in that table; None for `digits`.

    A function that needs something from outside may have two attributes: `ready()`, which raises
    InputError if that is missing and is called before a suite runs; and `version`, a string that
    enters the records.

    Raises: PluginError if `better` is none of these.
    """

    function: Callable[[Result], float | None]
    label: str
    better: Literal["higher", "lower"] | float | None = None
    within: tuple[float, ...] = ()
    relative: bool = False
    unit: str = ""
    digits: int = 3
    cost: Literal["low", "high"] = "low"
    shown: bool | Literal["pictures", "fields"] = False
    shown_digits: int | None = None

    def __post_init__(self) -> None:
        if self.better not in (None, "higher", "lower") and not isinstance(
            self.better, int | float
        ):
            raise PluginError(
                f"metric '{self.label}': better must be 'higher', 'lower', a number or None, "
                f"got {self.better!r}"
            )

    def __call__(self, result: Result) -> float | None:
        """The score of a result; None where the metric does not apply."""
        return self.function(result)

    @property
    def heading(self) -> str:
        """Label and unit: "PSNR (dB)"."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def ideal(self) -> float | None:
        """The value to be close to; None for a metric that is better the higher or the lower."""
        return float(self.better) if isinstance(self.better, int | float) else None

    def loss(self, value: float) -> float:
        """The value turned so that smaller is better; a value without direction stays."""
        if self.ideal is not None:
            return abs(value - self.ideal)
        return -value if self.better == "higher" else value

    def ready(self) -> None:
        """Check that everything the function needs from outside is there.

        Raises: InputError if it is not.
        """
        getattr(self.function, "ready", lambda: None)()

    @property
    def version(self) -> str | None:
        """What a score depends on besides the code, such as the hash of a network; or None."""
        return getattr(self.function, "version", None)
