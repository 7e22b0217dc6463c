"""Which schedule for which budget: groups of blocks are measured, combined exactly, and measured as whole networks.

forms       the ways in which a group of blocks is as deep as one
fusibility  which groups width fusion makes into single operations
structure   schedules of equal groups, without data
partition   the cheapest split of a stack into groups, by interval dynamic programming
costs       what a group costs, measured with everything else serial
planner     schedules for a depth or an error, measured as whole networks
frontier    the schedules that no other one beats
memory      what was measured survives a stop
"""
