"""Play the story on servers of its own: `python -m examples.campaigns`."""

from examples.campaigns.story import FOLDER, story
from examples.stage import play
from mappings.campaigns import registry

if __name__ == "__main__":
    play(story, registry, FOLDER)
