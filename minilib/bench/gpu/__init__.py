"""Eight minutes on one GPU: a plan of stops in the order of their worth, each in a process of its own.

    plan        the stops, what each is predicted to cost and how that was predicted
    run         the command: what fits into the budget, time-outs, files that are whole after every stop
    gate        every fused kernel against fp64, and every tile that the tuner may choose
    parts       the small stops: what the GPU reaches at all, rings over NCCL, a profile
    page        the run as Markdown, the page of the book, and the kinds of GPU on which `auto` is fused
    bars        what is promised, scaled to the GPU's own rate, next to what the stops have measured

The other stops are those of `minilib.bench`: `contrastive`, `logps` and `step`, asked for a few methods at a time.
Needs torch, triton, transformers and what these bring along; a peer takes part where its wheel is at hand.
"""
