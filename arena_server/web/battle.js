/** A blind battle, from the first prompt to the reveal. */

import { Refused, Unreachable, get, post, stream } from "./api.js";
import { Board } from "./board.js";
import { Composer } from "./composer.js";
import { el } from "./dom.js";
import { Kept } from "./kept.js";
import { Trouble, announce, explained } from "./notice.js";
import { PairChoice } from "./pair.js";
import { showTheEnd } from "./place.js";
import { revealed } from "./reveal.js";
import { VoteBar } from "./votes.js";
import { welcome } from "./welcome.js";

const ROUTE = "v1/arena/battles";
const SIDES = [{ side: "a" }, { side: "b" }];
const LOOK_AGAIN_MS = 1000;
const ASK = "Ask both models something";
const GO_ON = "Go on with both";
const ANEW = "New prompt, new battle";

/** The view of it. */
export class Battle {
  #kept = new Kept("sessionStorage", "arena.battle"); // a tab's own: a reload takes it up again
  #id = this.#kept.text;
  #over = false; // no more turns, no vote
  #abort = null; // while a turn runs
  #prompt = ""; // that was sent last
  #reveal = null;

  /**
   * @param {Settings} settings
   * @param {(secret: boolean) => void} onSecret whether what the models do must not be seen now
   * @param {() => void} onVoted
   */
  constructor(settings, onSecret, onVoted) {
    this.settings = settings;
    this.onSecret = onSecret;
    this.onVoted = onVoted;
    this.trouble = new Trouble();
    this.votes = new VoteBar((vote) => this.#vote(vote));
    this.composer = new Composer(ASK, (prompt) => this.#send(prompt), () => this.#abort?.abort());
    this.pair = new PairChoice();
    this.board = new Board(welcome("Two models answer, and you do not know which. Vote, and you will.", (p) => this.#suggest(p)));
    this.anew = el("button", { type: "button", hidden: true, click: () => this.#leave() }, "New battle");
    const panel = settings.panel("They hold from the next battle on.");
    const dock = el("div", { class: "dock" }, this.trouble.element, this.votes.element, this.composer.element, panel);
    this.element = el("div", { class: "view" }, el("div", { class: "setup" }, this.pair.element, this.anew), this.board.element, dock);
  }

  /** Take up the battle that this tab was in before it was loaded again. */
  async restore() {
    if (!this.#id) return;
    this.onSecret(true);
    await this.#look(this.#id);
  }

  /** Know nothing of it any more: who comes next in this tab may be somebody else. */
  forget() {
    this.#keep(null);
  }

  async #send(prompt) {
    if (this.#over) this.#clear();
    this.#prompt = prompt;
    const abort = (this.#abort = new AbortController());
    this.trouble.clear();
    this.votes.open = false;
    this.composer.begin();
    this.pair.fixed = true;
    this.anew.hidden = false;
    this.onSecret(true);
    const turn = this.board.begin(prompt, SIDES);
    announce("Sent. Waiting for both models.");
    const end = await this.#follow(turn).catch((error) => () => this.#failed(error, turn));
    turn.stop();
    if (this.#abort !== abort) return; // somebody has left this battle
    this.#abort = null;
    const held = this.composer.end();
    end();
    if (held) (this.votes.element.hidden ? this.composer : this.votes).focus();
  }

  /** Read the stream to its end. Returns what is to be done then. */
  async #follow(turn) {
    const path = this.#id ? `${ROUTE}/${this.#id}/turns` : ROUTE;
    let ended = null;
    for await (const { event, data } of stream(path, this.#request(), this.#abort.signal)) {
      if (event === "battle") this.#keep(data.id);
      else if (event === "end") ended = data;
      else turn.take(event, data);
      turn.begun = true;
    }
    if (!ended) throw new Unreachable("The connection to the server broke off.");
    return () => this.#judge(ended);
  }

  #request() {
    if (this.#id) return { content: this.#prompt };
    const messages = [...this.settings.preface(), { role: "user", content: this.#prompt }];
    return { messages, ...this.pair.request(), ...this.settings.sampling() };
  }

  #judge({ votable, reason }) {
    if (!votable) {
      this.#finish();
      this.trouble.show(`This battle cannot be voted on: ${reason}`, { label: "Try again", act: () => this.#again() });
      return;
    }
    this.composer.hint = GO_ON;
    this.votes.open = true;
    announce("Both answers are complete. Which is better? Vote with the keys 1 to 4, or go on with both.");
  }

  #failed(error, turn) {
    const again = { label: "Try again", act: () => this.#again() };
    if (error.name === "AbortError") {
      this.#finish();
      this.trouble.show("You stopped this battle, so it cannot be voted on.", again);
      announce("Stopped");
    } else if (turn.begun) {
      this.#finish();
      this.trouble.show(`${explained(error).text} This battle cannot be voted on.`, again);
    } else this.#refused(error);
  }

  /** The turn never began: the prompt goes back to where it was written. */
  #refused(error) {
    this.board.withdraw();
    this.composer.fill(this.#prompt);
    if (this.#id) {
      this.#look(this.#id, error); // the turns before it may still be voted on
      return;
    }
    this.#clear();
    this.#explain(error);
  }

  #explain(error) {
    const { text, after_s } = explained(error);
    const act = () => {
      this.composer.fill("");
      this.#send(this.#prompt);
    };
    this.trouble.show(text, this.#prompt ? { label: "Try again", after_s, act } : undefined);
  }

  /** The battle as the daemon sees it; `error` is what kept its last turn from beginning. */
  async #look(id, error = null) {
    let battle;
    try {
      battle = await get(`${ROUTE}/${id}`);
    } catch (e) {
      if (this.#id === id) this.#lost(e);
      return;
    }
    if (this.#id !== id || this.#abort) return;
    this.#show(battle);
    if (error) this.#explain(error);
    if (battle.state === "running") setTimeout(() => this.#look(id), LOOK_AGAIN_MS);
  }

  #lost(error) {
    if (error instanceof Refused && error.status === 404) {
      this.#finish();
      this.#keep(null);
      this.trouble.show("This battle has expired: nobody voted on it for too long.");
    } else {
      const { text, after_s } = explained(error);
      this.trouble.show(text, { label: "Look again", after_s, act: () => this.#look(this.#id) });
    }
  }

  #show(battle) {
    this.trouble.clear();
    this.anew.hidden = false;
    this.pair.fixed = true;
    const running = battle.state === "running";
    battle.turns.forEach((shown, i) => {
      const turn = this.board.turns[i] ?? this.board.begin(shown.prompt, SIDES);
      for (const [side, answer] of turn.answers) catchUp(answer, shown[side], running && i === battle.turns.length - 1);
    });
    this.#prompt ||= battle.turns.at(-1)?.prompt ?? "";
    if (battle.reveal) this.#decide(battle);
    else if (!running) this.#judge(battle);
  }

  async #vote(vote) {
    const id = this.#id;
    this.trouble.clear();
    try {
      this.#decide(await post(`${ROUTE}/${id}/vote`, { vote }));
      this.onVoted();
    } catch (error) {
      if (this.#id !== id) return;
      this.votes.waiting = false;
      if (error instanceof Refused && [404, 409].includes(error.status)) this.#look(id);
      else this.trouble.show(`Your vote was not recorded. ${explained(error).text}`);
    }
  }

  #decide(battle) {
    const { a, b } = battle.reveal.sides;
    this.#finish();
    this.board.reveal({ a: a.model, b: b.model });
    this.#reveal?.remove();
    const again = el("button", { type: "button", click: () => this.#again() }, "Same prompt, new battle");
    const anew = el("button", { type: "button", class: "primary", click: () => this.#leave() }, "New battle");
    this.#reveal = revealed(battle);
    this.#reveal.append(el("div", { class: "row" }, anew, again));
    this.board.element.append(this.#reveal);
    announce(`A was ${a.model}, B was ${b.model}.`);
    this.#reveal.querySelector("h2").focus({ preventScroll: true });
    showTheEnd();
  }

  /** Nothing more can come of it. */
  #finish() {
    this.#over = true;
    this.votes.open = false;
    this.composer.hint = ANEW;
    this.pair.fixed = false;
    this.onSecret(false);
  }

  /** A new battle with the prompt that the last one ended with. */
  #again() {
    const prompt = this.#prompt;
    this.#clear();
    this.composer.fill("");
    this.#send(prompt);
  }

  #leave() {
    this.#abort?.abort();
    this.#abort = null;
    this.composer.end();
    this.#clear();
    this.composer.focus();
  }

  #clear() {
    this.#finish();
    this.#over = false;
    this.#keep(null);
    this.#reveal?.remove();
    this.board.clear();
    this.trouble.clear();
    this.composer.hint = ASK;
    this.anew.hidden = true;
  }

  #suggest(prompt) {
    this.composer.fill(prompt);
    this.composer.focus();
  }

  #keep(id) {
    this.#id = this.#kept.text = id;
  }
}

function catchUp(answer, { text, finish_reason }, running) {
  if (answer.finished) return;
  answer.catchUp(text);
  if (running) answer.wait("This turn still runs, or is just being ended", null);
  else if (finish_reason) answer.finish({ finish_reason });
  else answer.stop();
}
