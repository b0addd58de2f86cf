"""Models as directories and as repositories on the Hub: saved, and built again as they were.

save_pretrained(student, "resnet18-binary")          # config.json, model.safetensors, packed, card
student = from_pretrained("resnet18-binary")         # the same outputs, bit for bit
push_to_hub(student, "org/resnet18-binary")
student = from_pretrained("org/resnet18-binary", revision="v1")
"""

from irnet_convert.pretrained.load import from_pretrained
from irnet_convert.pretrained.push import push_to_hub
from irnet_convert.pretrained.save import save_pretrained

__all__ = ["from_pretrained", "push_to_hub", "save_pretrained"]
