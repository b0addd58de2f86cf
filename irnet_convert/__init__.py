"""irnet-convert: timm and torchvision models to IR-Net binary networks."""
