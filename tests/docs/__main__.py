"""`python -m tests.docs`: write the generated pages."""

from tests.docs import pages

for path, text in pages().items():
    path.write_text(text, "utf-8")
    print(f"docs: {path.name}")
