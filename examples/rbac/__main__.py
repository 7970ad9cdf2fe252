"""Play the story on servers of its own: `python -m examples.rbac`."""

from examples.rbac.story import FOLDER, story
from examples.stage import play
from mappings.rbac import registry

if __name__ == "__main__":
    play(story, registry, FOLDER)
