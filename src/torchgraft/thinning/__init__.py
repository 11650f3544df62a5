"""Large models with few kinds of layers: planned for a few members of each list, then for all like them.

Members of a numbered list that have the same tensors, shapes and modules are one question, however many they are: 256 experts
in each of 61 layers are three matrices asked for 15,616 times. `thinned` leaves a few members of each long run of such
members, on both sides; the plan for these is made as any other; `Few.extended` says of all what it says of them, where
they speak with one voice. Wherever they don't, or it isn't plain what their words would be for the others, there is no such
plan, and the whole is planned.
"""

from torchgraft.thinning.few import Few, thinned
from torchgraft.thinning.places import UnevenError

__all__ = ["Few", "UnevenError", "thinned"]
