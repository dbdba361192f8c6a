#!/bin/sh
# What scripts/extract_text.pl keeps and what it leaves out. usage: extract_text.sh ROOT
set -eu
root=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

cat >one.html <<'HTML'
<html><head><title>The title of the page is not one of the sentences that are kept.</title></head><body>
<h1>A heading is not prose even if it has as many words as a sentence has.</h1>
<p>The <code>first</code> paragraph of the page is kept, and <a href="x.html">its links</a> are a part
of the sentence &mdash; so are caf&eacute;s &amp; naïve quotes.</p>
<p>See also the index</p>
<pre>The program text in here is left out because it is not what we are looking for.</pre>
<table><tr><td>The cell of a table is left out because it is seldom a sentence of its own.</td></tr></table>
<p>x = f(a_b) + g[c] * {d}; if (x &lt; y) then_do(that_thing) or else it_is(not_done).</p>
<p>Der zweite Absatz dieser Seite ist in einer anderen Sprache geschrieben und wird deshalb nicht behalten.</p>
<ul><li>An item of a list is kept when it is a whole sentence, which is what this one is.</li></ul>
<p>There were 17 ways in which the same sentence could be written again in another place.</p>
</body></html>
HTML
cat >two.pod <<'POD'
my $code = "The code before the first command of the file is not a part of the text.";

=head1 NAME

The C<< $nested >> codes of B<this I<format>> are taken off, and L<the text|perlfunc> of a link stays in.

    The indented line is code and so it is not a part of the text that we want to have.

There were 18 ways in which the same sentence could be written again in another place.

This paragraph is only here so that the document is long enough to be one that is kept at all, which takes some more words.

=cut

The text after the end of the documentation is not a part of the documentation of the file.
POD
{
  printf '<p>The byte \377 is in none of the sentences of a page that is valid in its encoding.</p>'
  printf '<p>This page is not valid in its encoding, and so all of it is left out, with all that it has to say.</p>'
  printf '<p>It is long enough to be a document, and it would be one if that byte were not in the first of its sentences.</p>'
} >three.html
cp one.html four.html
gzip -c two.pod >five.pod.gz

cat >expected <<'TEXT'
The first paragraph of the page is kept, and its links are a part of the sentence — so are cafés & naïve quotes.
An item of a list is kept when it is a whole sentence, which is what this one is.
There were 17 ways in which the same sentence could be written again in another place.

The $nested codes of this format are taken off, and the text of a link stays in.
This paragraph is only here so that the document is long enough to be one that is kept at all, which takes some more words.

TEXT
printf '%s\n' one.html two.pod three.html four.html five.pod.gz | perl "$root/scripts/extract_text.pl" >got
diff -u expected got

printf '%s\n' five.pod.gz | perl "$root/scripts/extract_text.pl" | grep -q 'The \$nested codes of this format'
[ "$(printf '%s\n' one.html two.pod | perl "$root/scripts/extract_text.pl" --max-bytes 10 | grep -c '^$')" -eq 1 ]
if printf 'none.html\n' | perl "$root/scripts/extract_text.pl" 2>message; then
  echo "FAILED: expected an error about a file that does not exist"
  exit 1
fi
grep -q 'expected to read none.html' message
echo "extract_text: as expected"
