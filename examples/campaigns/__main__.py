"""Run the story on temporary servers: `python -m examples.campaigns`."""

from examples.campaigns.story import FOLDER, story
from examples.stage import run_story
from mappings.campaigns import registry

if __name__ == "__main__":
    run_story(story, registry, FOLDER)
