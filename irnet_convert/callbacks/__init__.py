"""The surrogate gradient's schedule in other people's trainers.

``irnet_convert.callbacks.transformers.EdeCallback`` is for the Hugging Face ``Trainer``,
``irnet_convert.callbacks.lightning.EdeCallback`` for Lightning. A loop of one's own calls
:func:`irnet_convert.set_progress`.
"""
