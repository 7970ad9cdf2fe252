"""Play the story on servers of its own: `python -m examples.consultations`."""

from examples.consultations.story import FOLDER, story
from examples.stage import play
from mappings.consultations import registry

if __name__ == "__main__":
    play(story, registry, FOLDER)
