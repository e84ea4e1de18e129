/** The reader's place on the page. */

const NEAR_PX = 120;

/** Go to the end of the page. */
export function showTheEnd() {
  document.scrollingElement.scrollTop = document.scrollingElement.scrollHeight;
}

/** Make a change; who reads the end of the page goes on reading its end, who reads something else is not moved. */
export function followingTheEnd(change) {
  const page = document.scrollingElement;
  const wasAtEnd = page.scrollHeight - page.scrollTop - page.clientHeight < NEAR_PX;
  change();
  if (wasAtEnd) showTheEnd();
}
