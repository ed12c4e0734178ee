"""How nbval compares a notebook: every printed word, but no warnings, which differ from version to version."""

# The longest lessons first (`pytest --nbval --durations=0`), so that none is left to one core at the end.
LONGEST = ("13_", "07_", "08_", "10_", "12_")


def pytest_collectstart(collector):
    if collector.path and collector.path.suffix == ".ipynb":
        collector.skip_compare += ("stderr",)


def pytest_collection_modifyitems(config, items):
    """The lessons of LONGEST come first and the cells of a lesson stay in order; workers take files as they come."""
    config.option.loadscopereorder = False
    starts = {start: place for place, start in enumerate(LONGEST)}
    items.sort(key=lambda item: (item.path.parent.name == "labs", starts.get(item.path.name[:3], len(starts))))
