"""Optics that are known, learned or unknown: what the refinement may believe of the PSF.

Known: given by the user, or the protocol of a card that was chosen. Learned: enough isolated spots of the stream agree
on one width; the probability of that is weighed against spots of all widths. Or spots that may all be clusters are
points of one width (``common_width``). Unknown: none of these, and then no blob is taken apart on faith.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glint.errors import InputError
from glint.runtime.unmixing.common_width import CommonWidth, Search, finished, search_width
from glint.runtime.unmixing.shapes import Shapes
from glint.runtime.unmixing.windows import Windows

KNOWN, LEARNED, UNKNOWN = "known", "learned", "unknown"
_KEPT_SPOTS = 200  # spots, the latest
_SAME_PX, _GONE_FRAMES = 8.0, 10  # way of a spot from frame to frame, and frames after which it is another one, at most
_CLEAN_CHI_SQUARE = 1.5  # reduced chi square of a spot that one Gaussian explains
_BRIGHT_SNR = 6.0  # radiance over its standard deviation
_SHARP_WIDTH_ERROR = 0.15  # relative error of a width that tells something
_UNEVEN_WIDTH_SHARE = 0.02  # share by which the PSF's width may differ from spot to spot
_CARD_PROBABILITY = 0.5  # probability that the optics, if they are one, are those that the model was made for
_AGREEING_LOG_ODDS = math.log(30)  # from which on spots agree
_STRAY_SHARE = 0.02  # share of spots that are anything
_WIDEST_PX = 5.0
_CLUSTER_SHARE = 0.8  # of wider spots
_CLUSTER_LOG_WIDTHS = (math.log(1.04), math.log(1.6))  # how much wider they are
_NULL_LOG_WIDTH_SPREADS = (0.3, 0.45, 0.7)  # of the log of the widths of spots without a PSF in common
_SINGLE_SHARES = (0.3, 0.5, 0.7, 0.9)  # of single targets among the spots
_EDGE_WIDTH_ERROR = 0.065  # relative error of the widths that tell where the narrowest spots lie
_FEWEST_SPOTS, _LEAST_SINGLES_SHARE = 2, 0.1  # spots, and share of them, that must be there
_ALIKE_CHI_SQUARE = 2.0  # reduced chi square of shapes that have nothing in common but the PSF
_SLIGHT_DISTORTION = 0.12  # e and shear that a few clusters which stay may feign
_NARROWER_SHARE = 0.1  # share of those near the model's width that must be narrower than it
_LIKE_SHARE, _COMMON_LIKE_SHARE = 0.03, 0.01  # relative difference below which the PSF is the model's own
_MOST_WEIGHED_SPOTS, _FIRST_WEIGHED_SPOTS = 48, 12  # whose width is sought in common: at most, and the first time
_SOON_FACTOR, _LATER_FACTOR = 1.3, 2.0  # times as many spots for the next search: where nothing is known; else
_SAME_WIDTH_SHARE = 0.03  # relative difference from the width of single spots that alike shapes allow
_FEWEST_THINGS = 3  # different spots whose width is sought in common
_LEAST_WHITE_SHARE = 0.1  # of the noise, that is another in every frame
_COMMON_UNEVEN_SHARE = 0.005  # share by which it may differ from spot to spot where all agree on it

Array = NDArray[np.float64]


@dataclass(frozen=True)
class OpticsState:
    """The PSF and how it is known.

    Attributes:
        kind: ``known``, ``learned`` or ``unknown``.
        sigma: standard deviation of the PSF, px (geometric mean of its axes); of the model's where it is unknown.
        sigma_error: standard deviation of it, px; 0 where it is taken as exact.
        e, shear: its shape (see ``point_model``); 0 for a round one.
        spots: that it was learned from.
        source: where it comes from, in words.
        samples: what the PSF is beyond that Gaussian, a pixel's share of the radiance at offsets 1 / 4 px apart, the
            middle is offset 0, ``[m, m]``, m odd; None: nothing.
        uneven: share by which a learned width may differ from spot to spot.
    """

    kind: str
    sigma: float
    sigma_error: float = 0.0
    e: float = 0.0
    shear: float = 0.0
    spots: int = 0
    source: str = ""
    samples: NDArray[np.float64] | None = field(default=None, compare=False)
    uneven: float = _UNEVEN_WIDTH_SHARE

    def __post_init__(self) -> None:
        if self.kind not in (KNOWN, LEARNED, UNKNOWN):
            raise InputError(f"OpticsState.kind: expected {KNOWN}, {LEARNED} or {UNKNOWN}, got {self.kind!r}")
        if not (self.sigma > 0 and math.isfinite(self.sigma) and self.sigma_error >= 0):
            raise InputError(f"OpticsState: expected sigma > 0 and sigma_error >= 0, got {self.sigma}")

    @property
    def is_round(self) -> bool:
        """Whether it is a round Gaussian, and nothing else."""
        return self.e == 0 and self.shear == 0 and self.samples is None

    def splines(self) -> NDArray[np.float64]:
        """``samples`` as ``point_model.correct`` takes them; ``[0, 0]`` for nothing."""
        if self.samples is None:
            return np.empty((0, 0))
        from scipy.ndimage import spline_filter

        return np.ascontiguousarray(spline_filter(np.pad(self.samples, 2), order=3), dtype=np.float64)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Of the PSF, px^2, ``[2, 2]`` in x and y."""
        along, across = self.sigma * math.exp(self.e), self.sigma * math.exp(-self.e)
        both = self.shear * across**2
        return np.array([[along**2 + self.shear * both, both], [both, across**2]])

    def text(self) -> str:
        """For the terminal."""
        if self.kind == UNKNOWN:
            return f"unknown ({self.spots} isolated spots that agree): spots are taken apart on decisive evidence only"
        error = f" +- {self.sigma_error:.3f}" if self.sigma_error else ""
        error += " px, as sampled" if self.samples is not None else " px"
        return f"{self.kind}, sigma {self.sigma:.3f}{error} ({self.source})"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; without the samples, which are in the file that they came from."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "samples"}
        return {k: round(v, 6) if isinstance(v, float) else v for k, v in known.items()}


@dataclass(eq=False)
class _Thing:
    """A spot that was seen in one or several frames.

    Attributes:
        x, y: where it was last, px.
        frame: number of that frame.
        shape, noise: u, e and shear, and their standard deviations by noise, of all its clean frames together.
        ground: those by what lies behind it, which stays.
        clean: whether one Gaussian explains it, in some frame.
    """

    x: float
    y: float
    frame: int
    shape: Array
    noise: Array
    ground: Array
    clean: bool

    @property
    def error(self) -> Array:
        """Standard deviations of the shape."""
        total: Array = np.hypot(self.noise, self.ground)
        return total

    def is_seen_in(self, other: _Thing) -> bool:
        """Whether a spot of a later frame may be the same."""
        near = max(abs(self.x - other.x), abs(self.y - other.y)) < _SAME_PX
        error = math.hypot(self.error[0], other.error[0], _UNEVEN_WIDTH_SHARE)
        return near and other.frame > self.frame and abs(self.shape[0] - other.shape[0]) < 4 * error

    def see(self, other: _Thing) -> None:
        """Take what a later frame says of it."""
        self.x, self.y, self.frame = other.x, other.y, other.frame
        if other.clean and not self.clean:
            self.shape, self.noise, self.ground, self.clean = other.shape, other.noise, other.ground, True
        elif other.clean:
            own, more = self.noise**-2, other.noise**-2
            self.shape, self.ground = (
                (own * mine + more * its) / (own + more)
                for mine, its in ((self.shape, other.shape), (self.ground, other.ground))
            )
            self.noise = (own + more) ** -0.5


class Learner:
    """Estimates the PSF from the spots of a stream, frame by frame.

    A spot that is seen in one frame after the other is one spot: a few clusters that stay do not outvote the model.

    Args:
        sigma: of the PSF that the model was made for, px.
        radiance: mean and standard deviation of a target's, DN, which tell single ones; None: unknown.
        tell: called with a text whenever the kind of the state changes.

    Attributes:
        at_once: whether the width that spots have in common is sought at once, which takes 0.1 to 0.2 s; else one spot
            is weighed with each frame, so that no frame has to wait.
    """

    at_once = True

    def __init__(
        self,
        sigma: float,
        radiance: tuple[float, float] | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.card, self.radiance = sigma, radiance
        self.state = OpticsState(UNKNOWN, sigma)
        self.tell = tell
        self._things: deque[_Thing] = deque(maxlen=_KEPT_SPOTS)
        self._frame = self._fresh = self._measured = 0
        self._seen: deque[tuple[Windows, Shapes, _Thing]] = deque(maxlen=_MOST_WEIGHED_SPOTS)
        self._number, self._next = 0, _FIRST_WEIGHED_SPOTS
        self._common: CommonWidth | None = None
        self._search: Search | None = None
        self._before: Array = np.zeros(0)  # pixels of the last frame's spots

    def update(self, windows: Windows, shapes: Shapes) -> OpticsState:
        """Take the spots of a frame into account, and say what is known now. A frame that is repeated is no news."""
        if len(windows) and np.array_equal(windows.data, self._before):
            return self.state
        self._before = windows.data
        bright = shapes.theta[:, 2] > _BRIGHT_SNR * shapes.error[:, 2]
        usable = shapes.whole & bright & (shapes.error[:, -3] < _SHARP_WIDTH_ERROR)
        clean = usable & (shapes.chi_square < _CLEAN_CHI_SQUARE)
        if self.radiance is not None:
            off = np.abs(shapes.theta[:, 2] - self.radiance[0])
            clean &= off < 2.5 * np.hypot(self.radiance[1], shapes.error[:, 2])
        rows = np.flatnonzero(usable).tolist()
        things = self._take(windows, shapes, rows, clean)
        self._number += len(rows)
        if self._number > self._next - _MOST_WEIGHED_SPOTS:  # the others would be forgotten until it is time
            for row, thing in zip(rows, things):
                self._seen.append((windows.rows([row]), shapes.rows([row]), thing))
        found = self._in_common()
        if found or (self._fresh and (self._measured < 20 or self._fresh >= min(self._measured, _KEPT_SPOTS) // 4)):
            self._fresh = 0
            before = self.state.kind
            self.state = self._learned()
            if self.state.kind != before:
                self.tell(f"optics: {self.state.text()}")
        return self.state

    def _take(
        self, windows: Windows, shapes: Shapes, rows: list[int], clean: NDArray[np.bool_]
    ) -> list[_Thing]:  # fmt: skip
        """Remember spots of a frame; returns each, or what is known of it from frames before."""
        self._frame += 1
        lately, things = [one for one in self._things if one.frame >= self._frame - _GONE_FRAMES], []
        for row in rows:
            x, y = shapes.theta[row, :2] + (windows.left[row], windows.top[row])
            shape = np.array([shapes.theta[row, -3], *shapes.stretch[row]])
            error = np.array([shapes.error[row, -3], *shapes.stretch_error[row]])
            white = float(np.clip(windows.white[row] / windows.noise[row], _LEAST_WHITE_SHARE, 1.0))
            noise, ground = white * error, math.sqrt(1 - white**2) * error
            thing = _Thing(float(x), float(y), self._frame, shape, noise, ground, bool(clean[row]))
            known = next((one for one in lately if one.is_seen_in(thing)), None)
            if known is None:
                self._things.append(thing)
            else:
                known.see(thing)
                thing = known
            things.append(thing)
        self._fresh += int(clean.sum())
        self._measured += int(clean.sum())
        return things

    def _in_common(self) -> bool:
        """Go on with the search for the width that spots have in common; whether it has ended with this frame."""
        things = [thing for _, _, thing in self._seen]
        if self._search is None and self._number >= self._next and len({id(one) for one in things}) >= _FEWEST_THINGS:
            while self._next <= self._number:
                self._next = math.ceil(self._next * (_SOON_FACTOR if self._common is None else _LATER_FACTOR))
            windows = Windows.concatenate([w for w, _, _ in self._seen])
            shapes = Shapes.concatenate([s for _, s, _ in self._seen])
            numbers: dict[int, int] = {}
            thing = np.array([numbers.setdefault(id(one), len(numbers)) for one in things])
            single = self._single()[0]
            self._search = search_width(windows, shapes, single.e, single.shear, self.radiance, thing, self.card)
        if self._search is None:
            return False
        try:
            next(self._search)
            if not self.at_once:
                return False
            found = finished(self._search)
        except StopIteration as end:
            found = end.value
        self._search = None
        if found is not None and (found.believed or found.is_other):
            self._common = found if found.believed else None
        return True  # what says nothing, or little, leaves what is known

    def _single(self) -> tuple[OpticsState, NDArray[np.bool_]]:
        """What isolated spots speak for, and which of them are single targets."""
        if not len(self._table()):
            return OpticsState(UNKNOWN, self.card), np.zeros(0, dtype=bool)
        return weigh(self._table(), self.card)

    def _table(self) -> Array:
        return np.array([(*one.shape, *one.error) for one in self._things if one.clean]).reshape(-1, 6)

    def _learned(self) -> OpticsState:
        """What all spots speak for."""
        state, member = self._single()
        spots = self._table()
        if self._common is None or (state.kind == UNKNOWN and alike(spots)):  # of one shape: no clusters
            return state
        return with_common(state, self._common, self.card, spots[member])


def with_common(state: OpticsState, common: CommonWidth, card: float, singles: Array) -> OpticsState:
    """The state with the width that spots have in common as points.

    Args:
        state: what single spots speak for.
        common: what all spots do.
        card: width of the PSF that is expected, px.
        singles: spots that pass for single ones, ``[N, 6]`` (see ``weigh``).
    """
    sigma, error, uneven = math.exp(common.u), math.exp(common.u) * common.error, _UNEVEN_WIDTH_SHARE
    sharp = state.kind == LEARNED and alike(singles)  # then no narrower PSF takes them apart
    if sharp:
        if abs(common.u - math.log(state.sigma)) > _SAME_WIDTH_SHARE:
            return state
        known = max(state.sigma_error, 0.25 * error)
        share = error**2 / (error**2 + known**2)
        sigma, error = share * state.sigma + (1 - share) * sigma, math.sqrt(share) * known
    near = abs(sigma - card) < max(_COMMON_LIKE_SHARE * card, 2 * error)
    if (near or (common.is_expected and not sharp)) and not (state.e or state.shear):
        doubt = common.doubt * abs(sigma - card)
        sigma, error, uneven = card, max(doubt, min(error, _COMMON_LIKE_SHARE * card)), _COMMON_LIKE_SHARE
    elif not common.is_other:  # too few things to tell
        return state
    # A PSF that is longer than it is wide by less than can be seen would be taken for two points.
    errors = (
        [(np.hypot(singles[:, i], _UNEVEN_WIDTH_SHARE) ** -2).sum() ** -0.5 for i in (4, 5)] if len(singles) else []
    )
    out_of_round = max(errors, default=0.0)
    return replace(
        state, kind=LEARNED, sigma=sigma, sigma_error=error, spots=max(round(common.explained), state.spots),
        source="from all spots", uneven=min(max(_COMMON_UNEVEN_SHARE, float(out_of_round)), uneven),
    )  # fmt: skip


def alike(spots: Array) -> bool:
    """Whether spots ``[N, 6]`` (see ``weigh``) have one width and shape, as points have, and clusters have not."""
    return len(spots) >= _FEWEST_SPOTS and all(
        _excess(spots[:, i], spots[:, 3 + i]) <= _ALIKE_CHI_SQUARE for i in (0, 1, 2)
    )


def weigh(spots: Array, card: float | None) -> tuple[OpticsState, NDArray[np.bool_]]:
    """The state that isolated spots speak for, and which of them are single targets, ``bool [N]``.

    Args:
        spots: u, e, shear and their standard deviations, ``[N, 6]``.
        card: width of the PSF that is expected, px; None: any is as likely.
    """
    u, error = spots[:, 0], np.hypot(spots[:, 3], _UNEVEN_WIDTH_SHARE)
    own = 0.5 if card is None else card
    grid = np.concatenate([[math.log(own)], np.arange(math.log(0.25), math.log(_WIDEST_PX), 0.015)])[:, None]
    single = _density(u, grid, error)
    near = _between(u, grid + _CLUSTER_LOG_WIDTHS[0], grid + _CLUSTER_LOG_WIDTHS[1], error)
    wider = _CLUSTER_SHARE * near + (1 - _CLUSTER_SHARE) * _between(u, grid, math.log(1.5 * _WIDEST_PX), error)
    null, anything = _of_all_widths(u, error)
    prior = np.full(len(grid), (0.5 if card else 1.0) / (len(grid) - 1))
    prior[0] = _CARD_PROBABILITY if card else 1e-12
    best, at, share = -np.inf, 0, 0.5
    for tried in _SINGLE_SHARES:
        mixed = (1 - _STRAY_SHARE) * (tried * single + (1 - tried) * wider) + _STRAY_SHARE * anything
        score = np.log(mixed).sum(axis=1) + np.log(prior)
        if score.max() > best:
            best, at, share = float(score.max()), int(score.argmax()), tried
    member = share * single[at] > (1 - share) * wider[at] + _STRAY_SHARE * anything
    if best - null < _AGREEING_LOG_ODDS or not member.any():
        return OpticsState(UNKNOWN, own, spots=int(member.sum())), member
    e, shear = (_shared(spots[member, i], spots[member, 3 + i]) for i in (1, 2))
    if at and card is not None and max(abs(e), abs(shear)) < _SLIGHT_DISTORTION and _fits(u, error, card):
        at, member, e, shear = 0, single[0] > 1.0, 0.0, 0.0
    sigma, sigma_error = _common_width(u[member], error[member])
    like = card is not None and (not at or abs(sigma - own) < max(_LIKE_SHARE * own, 2 * sigma_error))
    if like and not (e or shear):
        sigma, sigma_error = own, min(sigma_error, _COMMON_LIKE_SHARE * own)
    return OpticsState(LEARNED, sigma, sigma_error, e, shear, int(member.sum()), "from isolated spots"), member


def _common_width(u: Array, error: Array) -> tuple[float, float]:
    """Width and its standard deviation, px.

    The variance errs like a Gaussian; the log of it is far off where noise makes a spot narrow.
    """
    variance = np.exp(2 * u)
    weight = (2 * variance * error) ** -2
    mean = float((weight * variance).sum() / weight.sum())
    strain = float((weight * (variance - mean) ** 2).sum() / max(len(u) - 1, 1))
    sigma = math.sqrt(mean)
    return sigma, math.sqrt(max(1.0, strain) / float(weight.sum())) / (2 * sigma)


def _fits(u: Array, error: Array, card: float) -> bool:
    """Whether the narrowest spots are as wide as the model's PSF: the others, many as they may be, are clusters."""
    sharp = error < _EDGE_WIDTH_ERROR
    strain = (u[sharp] - math.log(card)) / error[sharp]
    near, narrower = int((np.abs(strain) < 1.64).sum()), int((strain < -2.5).sum())
    below = int((strain < 0).sum())  # half of the single ones
    enough = near >= max(_FEWEST_SPOTS, _LEAST_SINGLES_SHARE * len(strain)) and below >= _NARROWER_SHARE * near
    return enough and narrower <= 0.05 * len(strain)


def _shared(values: Array, errors: Array) -> float:
    """What the elongations of spots have in common; 0 where that is nothing."""
    weight = np.hypot(errors, _UNEVEN_WIDTH_SHARE) ** -2
    mean, excess = float((weight * values).sum() / weight.sum()), _excess(values, errors)
    if excess > _ALIKE_CHI_SQUARE:  # clusters, each with a shape of its own
        return 0.0
    error = math.sqrt(max(excess, 1.0) / weight.sum())
    return mean if abs(mean) > max(4 * error, 0.03) else 0.0


def _excess(values: Array, errors: Array) -> float:
    """Reduced chi square of values as one."""
    weight = np.hypot(errors, _UNEVEN_WIDTH_SHARE) ** -2
    mean = (weight * values).sum() / weight.sum()
    return float((weight * (values - mean) ** 2).sum()) / max(len(values) - 1, 1)


def _density(value: Array, mean: Array | float, sd: Array) -> Array:
    density: Array = np.exp(-0.5 * ((value - mean) / sd) ** 2) / (math.sqrt(2 * math.pi) * sd)
    return density


def _between(value: Array, least: Array | float, most: Array | float, sd: Array) -> Array:
    """Density of widths that are uniform in their logarithm between two, measured with an error."""
    from scipy.special import ndtr

    density: Array = (ndtr((value - least) / sd) - ndtr((value - most) / sd)) / (most - least)
    return np.maximum(density, 1e-12)


def _of_all_widths(u: Array, error: Array) -> tuple[float, Array]:
    """Best log likelihood of spots without a PSF in common, log-normal in their width, and its densities ``[N]``."""
    middle = np.log(np.geomspace(0.4, 4, 24))[:, None, None]
    spread = np.hypot(error, np.array(_NULL_LOG_WIDTH_SPREADS)[:, None])
    density = _density(u, middle, spread)
    score = np.log(np.maximum(density, 1e-300)).sum(axis=2)
    at = np.unravel_index(int(score.argmax()), score.shape)
    return float(score[at]), density[at]
