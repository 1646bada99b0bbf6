from tests.artifacts import image_artifacts, images, text_artifacts, texts

__all__ = ["image_artifacts", "images", "text_artifacts", "texts"]
