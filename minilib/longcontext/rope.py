"""The other way to reach far: leave the text as it is and stretch the rotary angles, by transformers' own settings.

With frequencies theta_j = base^(-2j/d), j = 0 .. d/2 - 1, and factor f = K / L:

    interpolation   theta_j / f                                              same as positions p / f
    ntk             base f^(d/(d-2))                                         fast frequencies stay, the slowest is / f
    dynamic_ntk     base (f S/L - (f - 1))^(d/(d-2)) once S > L              grows with the text
    yarn            theta_j where fast, theta_j / f where slow, a ramp between; cos and sin times 0.1 ln f + 1

where
    L, K   trained window and the window wanted; a factor f of 8 is what LOGO asks of short models
    S      largest position + 1 of the call; d the rotated part of a head

LOGO's released experiments use a base of 2e8 for Llama-3 and interpolation by 8 for Llama-2; the paper says neither.
Beware: "dynamic_ntk" looks at the largest position id, so synthesised positions switch it on even for a short input,
and it changes the angle of keys that a cache already holds. Taught in
notebooks/12_stretch_positions_without_long_inputs.ipynb. Sources: arXiv 2306.15595, 2309.00071.
"""

import copy

from minilib.losses.validation import check_choice

METHODS = ("none", "interpolation", "ntk", "dynamic_ntk", "yarn")


def rope_parameters(config, method: str, target: int) -> dict:
    """The `rope_parameters` that stretch a model of this transformers config from its window to `target` positions."""
    check_choice("method", method, METHODS)
    config = config.get_text_config()
    if method == "none":
        return dict(config.rope_parameters)
    settings = _trained(config)
    window, base = config.max_position_embeddings, settings["rope_theta"]
    if target < window:
        raise ValueError(f"target is {target} and the model's window {window}: give a target beyond the window.")
    factor = target / window
    if method == "interpolation":
        return settings | {"rope_type": "linear", "factor": factor}
    if method == "ntk":  # a larger base and no scaling
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        rotated = int(head * settings.get("partial_rotary_factor", 1.0))
        if rotated < 4:
            raise ValueError(f"config rotates {rotated} numbers of a head and ntk needs 4: choose another method.")
        return settings | {"rope_theta": base * factor ** (rotated / (rotated - 2))}
    if method == "dynamic_ntk":
        return settings | {"rope_type": "dynamic", "factor": factor}
    return settings | {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": window}


def stretch_config(config, method: str, target: int):
    """A copy of the config with these settings: `AutoModelForCausalLM.from_pretrained(path, config=...)`.

    Its window becomes `target`, but for "dynamic_ntk", whose formula reads the trained window from there. Of a config
    that holds one for text, as those of models that see, that one is stretched.
    """
    stretched = copy.deepcopy(config)
    text = stretched.get_text_config()
    text.rope_parameters = rope_parameters(config, method, target)
    if method == "yarn":  # whose formula in transformers takes no head_dim of None, and another window before ours
        if getattr(text, "head_dim", 0) is None:
            text.head_dim = text.hidden_size // text.num_attention_heads
        if hasattr(text, "original_max_position_embeddings"):
            text.original_max_position_embeddings = text.max_position_embeddings
    if method not in ("none", "dynamic_ntk"):
        text.max_position_embeddings = target
    try:
        type(stretched).from_dict(stretched.to_dict())  # as it will be read from a file
    except Exception as error:
        cause = str(error).strip().splitlines()[-1].strip().rstrip(".")
        came = f"config of model type {config.model_type!r} does not take the settings of rope {method!r} ({cause})"
        raise ValueError(f"{came}: choose another method, or 'none'.") from error
    return stretched


def _trained(config) -> dict:
    settings = dict(getattr(config, "rope_parameters", None) or {})
    kind = settings.get("rope_type")
    if kind is None or settings.get("rope_theta") is None:
        came = f"config of model type {config.model_type!r} has no single set of rope_parameters"
        raise ValueError(f"{came}: give the config of a model with one rotary embedding for all layers, such as Llama.")
    if kind != "default":
        raise ValueError(f"config has rope_type {kind!r} already: give the config from before any stretching.")
    if not isinstance(getattr(config, "max_position_embeddings", None), int):
        raise ValueError(f"config of model type {config.model_type!r} names no window: set max_position_embeddings.")
    return settings
