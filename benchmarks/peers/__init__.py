"""What a user would run instead of gaunlearn, one file a way of writing it.

Nothing but ``explicit`` imports it. The peers that train networks have two functions of the same
form: ``train`` descends from given weights on the samples that a trial keeps, and ``judge`` takes
the ascent step at some fractions and says how well each unlearns.
"""
