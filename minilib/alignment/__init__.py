"""What `python -m minilib logo` and `eval` do to a language model, step by step.

settings.py fills in what was left out, run_folder.py keeps a run together, rows.py finds or makes the preference pairs,
training.py trains on them, measure.py asks the result what it can do. The commands are in `alignment_commands.py`.
"""
