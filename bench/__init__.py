"""Measure eventspine: each figure beside a raw twin or a peer, in the same run, in turns.

    python -m bench                                       everything, some minutes
    python -m bench publish backlog --quick               some of it, small
    python -m bench --broker nats --million 100000        at a real broker, whose server is started for it
    python -m bench --write docs/reference/benchmarks.md  and write the page

The machine may be shared and its disk noisy, so a rate alone says little. What counts is the ratio of two legs that ran
in turns, and its median over several rounds. Nothing here passes or fails.
"""
