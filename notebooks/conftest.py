"""How nbval compares a notebook: every printed word, but no warnings, which differ from version to version."""


def pytest_collectstart(collector):
    if collector.path and collector.path.suffix == ".ipynb":
        collector.skip_compare += ("stderr",)
