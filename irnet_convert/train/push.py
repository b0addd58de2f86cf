"""A recipe and its result → the files of its repository on the Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from irnet_convert import hub
from irnet_convert.errors import RecipeError
from irnet_convert.recipe import Recipe
from irnet_convert.recipe.find import MAX_BYTES
from irnet_convert.recipe.read import ReadRecipe, check_paths, read_recipe
from irnet_convert.train.result import RunResult, read_result

CARD = "README.md"


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What an upload would hold.

    Args:
        files: path in the repository → a local file or the content.
        notes: what the publisher should know before.
    """

    files: dict[str, Path | bytes]
    notes: tuple[str, ...] = ()

    @staticmethod
    def size(content: Path | bytes) -> int:
        """Bytes of one of the files."""
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def prepare(
    file: Path,
    repo_id: str,
    *,
    run_dir: Path | None = None,
    name: str = "recipe.yaml",
    card: Path | None = None,
    license: str | None = None,
) -> Ready:
    """Validate a recipe as one that comes from the Hub, and put together what belongs to it.

    Args:
        file: the recipe.
        repo_id: where it will be.
        run_dir: a finished run of it.
        name: of the recipe in the repository.
        card: a card to take instead of writing one.
        license: for the card that is written.

    Raises:
        IrnetError: the recipe is malformed, extends or names what others cannot have, or the run is not its.
    """
    if "/" in name or not name.endswith((".yaml", ".yml")):
        raise RecipeError(
            f"{name!r} as the recipe's name in the repository",
            expected="one name that ends in .yaml or .yml: what it extends lies beside it",
            mend="--as my.yaml, or leave it out for recipe.yaml",
        )
    read = read_recipe(file.absolute())
    recipe = Recipe.from_dict(read.data, source=str(file))
    check_paths(read.data, str(file))
    files: dict[str, Path | bytes] = {hub.check_file_name(name): read.text}
    folder = file.resolve().parent
    for base in read.bases:
        if base.kind == "path":
            beside = base.path.relative_to(folder).as_posix()
            if beside in files:
                raise RecipeError(
                    f"{file} extends {beside}, which is the name that it would get itself",
                    expected="two names",
                    mend="give it another with --as",
                )
            files[hub.check_file_name(beside)] = base.path.read_bytes()
    result = read_result(run_dir, recipe) if run_dir is not None else None
    files |= result.files if result is not None else {}
    files[CARD] = _read_card(card) if card else _card(read, recipe, repo_id, name, result, license)
    return Ready(files=files, notes=tuple(_notes(recipe, result)))


def _read_card(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        content, problem = b"", error.strerror
    else:
        problem = "it is empty or too large"
    if not 0 < len(content) <= MAX_BYTES:
        raise RecipeError(f"the card {path}: {problem}", expected="a Markdown file", mend="check its path")
    return content


def _notes(recipe: Recipe, result: RunResult | None) -> list[str]:
    notes = []
    for key in ("model", "teacher"):
        checkpoint = getattr(getattr(recipe, key), "checkpoint", None)
        if checkpoint is not None:
            notes.append(f"{key}.checkpoint is {checkpoint}, a file that others must have at that place")
    if recipe.data.name.startswith((".", "/", "~")):
        notes.append(f"data.name is {recipe.data.name}, which others do not have")
    if result is None:
        notes.append("without --run RUN_DIR the card tells no result")
    return notes


def _card(
    read: ReadRecipe, recipe: Recipe, repo_id: str, name: str, result: RunResult | None, license: str | None
) -> bytes:
    teacher = recipe.teacher if isinstance(recipe.teacher, str | None) else recipe.teacher.name
    rows = {
        "model": recipe.model.name + (" (pretrained)" if recipe.model.pretrained else ""),
        "teacher": teacher or "none",
        "policy": recipe.policy if isinstance(recipe.policy, str | None) else "rules of its own",
        "data": recipe.data.name,
        "input": "×".join(map(str, recipe.transforms.input_size)),
        "epochs": recipe.epochs,
        "batch": recipe.batch_size,
        "optimizer": f"{recipe.optimizer.name}, lr {recipe.optimizer.lr:g}",
        "extends": ", ".join(
            f"bundled {base.path.stem}"
            if base.kind == "bundled"
            else base.where
            if base.repo
            else base.path.name
            for base in read.bases
        ),
    }
    where = repo_id if name == "recipe.yaml" else f"hf://{repo_id}/{name}"
    text = [
        f"# {recipe.name}",
        recipe.description,
        "A recipe of irnet-convert, which trains networks with binary weights and activations (IR-Net).",
        f"```\nirnet-convert recipe show {where}\nirnet-convert train {where}\n```",
        "The revision is resolved to a commit once and written into the run; pin it with `@COMMIT`.",
        "\n".join(
            ["| | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in rows.items() if value)]
        ),
    ]
    if result is not None:
        text += ["## Result", result.to_markdown()]
    if recipe.expect is not None:
        expect = recipe.expect
        said = f"{expect.metric} {expect.value:g} % ± {expect.tolerance:g}"
        text.append(f"The recipe expects {said} ({_cell(expect.note)}).")
    return hub.card(
        "\n\n".join(part for part in text if part),
        name=recipe.name,
        tags=["recipe", "binary-neural-network"],
        datasets=[recipe.data.name] if hub.is_on_hub(recipe.data.name) else [],
        license=license,
        measured=result.measured() if result is not None else [],
    )


def _cell(value: object) -> str:
    """A value in a table's cell: one line, no column of its own."""
    return " ".join(str(value).replace("|", "\\|").split())
