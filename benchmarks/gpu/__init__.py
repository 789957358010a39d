"""The first hour on a card, in parts of a few minutes: started by benchmarks/gpu.sh, described in its --help.

`__main__` watches over `worker`, which goes through the entries of the parts and notes each in a `record`. The parts:
`checks` (a), `steps` (b), `drawing` (c), `models` (d, e). Their networks and images come from `world`.
"""
