"""Play the story on servers of its own: `python -m examples.grants`."""

from examples.grants.story import FOLDER, story
from examples.stage import play
from mappings.grants import registry

if __name__ == "__main__":
    play(story, registry, FOLDER)
