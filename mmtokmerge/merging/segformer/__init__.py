"""What Segformer++ says of SegFormer's encoder: sizes, presets and cost in closed form."""
