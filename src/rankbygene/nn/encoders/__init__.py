"""Image encoders: built, loaded, frozen in part, and what they see."""
