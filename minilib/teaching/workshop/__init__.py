"""What a teacher needs: marks for a folder of learners' notebooks, minute plans, slides and a handout from the lessons.

The commands are in `minilib.cli.workshop`, the pages in book/workshop/.
"""
