"""The review desk: a Gradio app on top of `moderation.store`, for people who read comments all day.

`desk.web.server` serves it; `moderation review`, `make app` and `python app.py` call that. The rooms:

    frame.py    `Desk`, what every tab is given
    page.py     the page: the tabs in their order
    web.py      the server around the page: login, sessions, headers, what may be asked for without logging in
    render.py   the only place that turns text of strangers into HTML
    plots.py    bars, shares and tables as HTML
    queue.py    the tab in which comments are decided, and its routes
    card.py     one comment as a moderator sees it
    bulk.py     the tab in which many are decided in one step
    policy.py   the tab of thresholds, their effect, versions and shadow mode
    learning.py the tab that trains from the decisions, compares, promotes and rolls back
    intake.py   the tab that takes exports in, and downloads
    insight.py  the tab of plots: work, agreement, reliability, labels
    people.py   the tab of users and roles
    static/     style sheet and scripts; nothing is loaded from anywhere else

A tab is a module with `def tab(desk: Desk) -> gr.Tab`, listed in `page.TABS` in the order in which it stands on the page.
`tab` is called inside `gr.Tabs()` and returns the tab that it made; the module's `ROLE` says who is shown it:

    def tab(desk):
        with gr.Tab("Bulk", id="bulk") as made:
            ...
            button.click(handler, inputs, outputs, api_visibility="private")
        return made

A module may also have `routes(desk: Desk) -> APIRouter`, for what is no event of a component, such as a download: paths under
/desk/, which the guard opens to whoever is logged in; each asks for its role itself.

Every handler takes `request: gr.Request` and begins with `user = desk.user(request, role="lead")`: a private endpoint still
answers a plain POST, so hiding a tab protects nothing. `desk.user` raises `gr.Error` when the session has ended or the role
does not suffice. What a handler raises as `moderation.UserError` goes through `desk.frame.told` (a decorator), which shows it
as a message.

Text of strangers (comments, titles, names, notes, messages of errors that quote them) reaches a page only as plain text: in a
component that shows plain text (Textbox, Dataframe with datatype "str"), or as HTML made by `render`, whose functions
return `markupsafe.Markup` with every piece escaped. `gr.HTML(value=...)` is given such Markup and nothing else, never
Markdown. Colours and spaces are variables of static/desk.css (`--accent`, `--spam`, `--ink`, `--soft`, `--line`, ...).
"""
