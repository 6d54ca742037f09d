"""Measured latency: networks run by one of several engines on the CPU, compared so that a busy machine cannot fool us.

How a number is made, and why (experiments: ``benchmarks/latency_interval.py``, results in ``docs/results.md``):

*Fresh sessions.* A session of an engine carries a bias of its own of almost one percent (where its buffers came to
lie), which no number of runs in it averages out. So a comparison is made of *pairs*: both models get a new session,
the pair gives one ratio, and at least ten pairs are made.

*Interleaved.* Within a pair the models take turns, in an order that is shuffled and then reversed, so that a drift of
the clock frequency or a neighbour's load meets both alike.

*Processor time.* With one thread the model runs in the calling thread, and its time is read from that thread's own
processor clock. On an idle machine that is the wall clock; on a busy one it leaves out the slices in which somebody
else had the core. Where an engine runs its one thread beside the calling one, the clock of the process is read. With
more threads (and on Windows, whose thread clock ticks at 64 Hz) it is the wall clock. Every result says which.

*Pinned.* With one thread, and where the system lets us, each pair stays on the core that it was begun on.

*A low percentile.* A session's time is the 20th percentile of its timings. Others slow a run down and hardly ever speed
it up, so low values are the clean ones; the minimum is as clean, but hangs on a single timing and scattered twice as
much on a net of half a millisecond. It serves as a check instead.

*The median and its order statistics.* Reported are the median ratio over the pairs and the distribution-free interval
for a median: under no assumption but independent pairs, the k-th smallest and k-th largest ratio enclose it with a
known binomial probability. A t-interval on the logarithms is a little narrower, but a few wild pairs stretch it
without end. The level is nominally 99 %, and the interval is called so on every page and in every table: high, to leave
room for looking at it again and again until it is narrow, and for pairs that are not quite independent (in 40 repeats
it held the truth in 95 to 100 %). It is never narrower than half a percent to either side: the bias of one session.

*A against A.* The baseline runs twice in every comparison, as itself and as its own twin, in a session of its own. What
this null shows of a difference that cannot be there is added to every interval.
"""

from .energy import Energy, check_counters, energy
from .engines import ENGINES, engines
from .footprint import Footprint, footprint
from .intervals import CONFIDENCE, NOISY, RESOLUTION, Latency, Ratio
from .networks import PRECISIONS, Network, Variant
from .sampling import MIN_PAIRS, PRECISE, Progress, compare, measure

__all__ = [
    "CONFIDENCE",
    "ENGINES",
    "MIN_PAIRS",
    "NOISY",
    "PRECISE",
    "PRECISIONS",
    "RESOLUTION",
    "Energy",
    "Footprint",
    "Latency",
    "Network",
    "Progress",
    "Ratio",
    "Variant",
    "check_counters",
    "compare",
    "energy",
    "engines",
    "footprint",
    "measure",
]
