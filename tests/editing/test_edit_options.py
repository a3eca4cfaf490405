"""EditOptions is the one list of options: the command line, configs and the model code agree with it."""

import argparse
from dataclasses import fields

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ldm.editing.options import METHODS, EditOptions
from ldm.models.diffusion import inversion
from ldm.util.errors import UserError
from ldm.util.options import add_arguments, given_values


def test_the_methods_are_those_of_the_inversion():
    assert tuple(inversion.METHODS) == METHODS


def test_the_options_are_a_structured_config_of_omegaconf():
    config = OmegaConf.structured(EditOptions)
    OmegaConf.set_readonly(config, False)
    merged = OmegaConf.merge(config, {"steps": 7, "interval": [0.0, 0.5]})
    assert OmegaConf.to_object(merged) == EditOptions(steps=7, interval=(0.0, 0.5))
    with pytest.raises(OmegaConfBaseException):
        OmegaConf.merge(config, {"steps": "many"})


def test_every_option_is_on_the_command_line_with_a_help_text():
    parser = argparse.ArgumentParser()
    add_arguments(parser, EditOptions)
    options = EditOptions(method="ddim", steps=3, interval=(0.0, 0.5), keep=True, seed=-4)
    words = ["--method", "ddim", "--steps", "3", "--interval", "0", "0.5", "--keep", "--seed", "-4"]
    assert EditOptions(**given_values(parser.parse_args(words), EditOptions)) == options
    assert all(len(field.metadata["help"]) > 10 for field in fields(EditOptions))


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "dim"}, {"sampler": "euler"}, {"region": "all"}, {"strength": 0.0}, {"strength": 1.5}, {"margin": -1.0},
        {"feather": -0.5}, {"passes": 0}, {"interval": (0.0, 1.5)}, {"rescale": 2.0},
    ],
)  # fmt: skip
def test_an_option_out_of_bounds_is_refused_by_its_name(wrong):
    ((name, _),) = wrong.items()
    with pytest.raises(UserError, match=name):
        EditOptions(**wrong)


def test_the_forms_of_captions_are_those_that_can_be_made():
    from ldm.editing.options import FORMS
    from ldm.graph import caption

    assert caption.FORMS == FORMS
