"""Run the story on temporary servers: `python -m examples.rbac`."""

from examples.rbac.story import FOLDER, story
from examples.stage import run_story
from mappings.rbac import registry

if __name__ == "__main__":
    run_story(story, registry, FOLDER)
