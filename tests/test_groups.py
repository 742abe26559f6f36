"""Tests of one group share a worker: a browser, a server, a model that takes long to run. pytest and pytest-xdist must agree on how that is done."""

import pytest


@pytest.mark.xdist_group("embedded")
def test_groups_are_kept_together(request):
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith("@embedded"), "this pytest does not let pytest-xdist group tests: see requirements-dev.txt"
