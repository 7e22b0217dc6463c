"""Methods of the literature that make a network shallower; every rewrite is judged beside them at equal depth.

mean of branches       Painters, 2407.09298     branches averaged, not summed
CQIL                   2404.06709               a range of blocks in groups, block form
LP                     2502.02790               a range of blocks in pairs, sublayer form
first of each group                             deletion of the other blocks of each group of a plan
ShortGPT               2403.03853               deletion of the blocks of least influence
SLEB                   2402.09025               deletion of one block after another, scored anew each time
TOAST                  2410.04941               ranges of blocks replaced by a linear map
"""

from parallelize.baselines.methods import Baseline, baselines

__all__ = ["Baseline", "baselines"]
