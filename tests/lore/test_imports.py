"""Importing a library without its optional parts."""

from __future__ import annotations

import importlib
import sys

import pytest

from lore.imports import without


def test_what_is_left_out_is_missing_in_the_block_alone() -> None:
    assert "this" not in sys.modules

    with pytest.raises(ImportError), without("this"):
        importlib.import_module("this")

    assert "this" not in sys.modules


def test_what_is_loaded_already_stays() -> None:
    with without("json"):
        import json

    assert sys.modules["json"] is json
