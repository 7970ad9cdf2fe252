"""Run the story on temporary servers: `python -m examples.grants`."""

from examples.grants.story import FOLDER, story
from examples.stage import run_story
from mappings.grants import registry

if __name__ == "__main__":
    run_story(story, registry, FOLDER)
