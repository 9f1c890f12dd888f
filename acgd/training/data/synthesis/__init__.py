"""Sounds made by rule, for concepts with few recordings; each call draws other parameters.

RECIPES maps a concept to a function (rng, seconds) -> wave; `make` runs one and levels it. They
are caricatures (physical where that is cheap: modes of bells, bubbles whose pitch rises, firing
engines) that widen what little is recorded; they never count as held-out recordings.
"""

from __future__ import annotations

import numpy as np

from acgd.training.data.synthesis import engines, nature, objects, signals
from acgd.training.data.waves import Rng, band, pink, room

RECIPES = {
    "owl": nature.owl,
    "songbird": nature.songbird,
    "frog": nature.frog,
    "cricket": nature.cricket,
    "wolf": nature.wolf,
    "bee": nature.insect(120, 280),
    "mosquito": nature.insect(400, 800),
    "snake": nature.snake,
    "rain": nature.rain,
    "thunder": nature.thunder,
    "wind": nature.wind,
    "sea waves": nature.sea,
    "fire crackling": nature.fire,
    "water drops": nature.drops,
    "stream": nature.stream,
    "bubbles": nature.bubbles,
    "explosion": engines.explosion,
    "fireworks": engines.fireworks,
    "gunshot": engines.gunshot,
    "car engine": engines.engine(30, 130, 0.15, 2500),
    "car horn": signals.horn(330, 480, (1.0, 1.26), 0.9),
    "truck": engines.engine(14, 45, 0.3, 1800),
    "bus": engines.bus,
    "motorcycle": engines.engine(25, 160, 0.45, 5000),
    "siren": signals.siren,
    "train": engines.train,
    "helicopter": engines.helicopter,
    "airplane": engines.airplane,
    "rocket": engines.rocket,
    "ship horn": signals.horn(55, 170, (1.0, 1.5), 2.5),
    "bicycle bell": signals.bicycle_bell,
    "alarm clock": signals.alarm_clock,
    "clock ticking": objects.clock_ticking,
    "church bell": signals.bell(*signals.CHURCH, 130, 420, 1.8),
    "hand bell": signals.bell([1, 2.0, 2.9, 4.2, 5.8], [0.7, 0.4, 0.3, 0.2, 0.1], 900, 2600, 0.5),
    "door bell": signals.door_bell,
    "telephone": signals.telephone,
    "typing": objects.typing,
    "camera": objects.camera,
    "cash register": objects.cash_register,
    "hammer": objects.strokes(700, 5000, 0.05, (0.3, 1.0), 0.8),
    "axe chopping": objects.strokes(120, 1600, 0.02, (0.6, 1.6), 1.2),
    "chainsaw": engines.chainsaw,
    "kettle": objects.kettle,
    "bottle": objects.bottle,
    "cough": objects.cough,
    "clapping": objects.clapping,
    "footsteps": objects.footsteps,
    "heartbeat": objects.heartbeat,
    "guitar": objects.plucked(80, 250, 4000),
    "banjo": objects.plucked(190, 420, 10000),
    "maracas": objects.maracas,
    "wind chime": signals.wind_chime,
    "robot": objects.robot,
    "game console": objects.game_console,
    "flying saucer": objects.flying_saucer,
    "ghost": objects.ghost,
    "radio": signals.radio,
}


def make(concept: str, rng: Rng) -> np.ndarray:
    """(T,) float32 in [-1, 1]: two and a half to five seconds of the concept, with some room."""
    wave = RECIPES[concept](rng, rng.uniform(2.5, 5.0))
    if rng.random() < 0.4:
        wave = room(rng, wave, rng.uniform(0.03, 0.3), rng.uniform(0.05, 0.4))
    if rng.random() < 0.3:  # a distant or a cheap microphone
        wave = band(wave, rng.uniform(20, 150), rng.uniform(4000, 9000))
    if rng.random() < 0.3:  # a recording is never quite silent between events
        wave = wave + pink(rng, len(wave)) * wave.std() * 10 ** rng.uniform(-2.5, -1)
    return (wave / (np.abs(wave).max() + 1e-9) * 0.9).astype(np.float32)
