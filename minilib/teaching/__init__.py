"""What the lessons need: predicted and measured bytes, figures, sliders, exercise checks, seeds.

Import the parts by name, `from minilib.teaching import checks, memory, plots, repro, widgets`: each stands alone.
"""
