"""The commands of `python -m minilib`, each a plain function whose flags are its arguments.

`clip` trains an image and a text encoder, `logo` aligns a language model (its flags are the dataclass in `settings`,
`pairs` finds or makes the preference pairs, `run_folder` keeps a run together), `make_pairs` does its first half alone,
`evaluate` measures what a run has made, on your own questions through `own_questions`, `doctor` says what this machine
can run.
"""
