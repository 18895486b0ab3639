// Every word of the page in both languages, and the names of languages as the browser has them.
const WORDS = {
	// The frame.
	skip: ['Skip to content', '本文へ'],
	views: ['Views', '画面'],
	transcribe: ['Transcribe', '文字起こし'],
	live: ['Live', 'ライブ字幕'],
	history: ['Library', 'ライブラリ'],
	status: ['Status', '状態'],
	busy: ['{n} in progress', '{n} 件処理中'],
	theme: ['Colours: {now}', '配色: {now}'],
	theme_auto: ['as the system', 'システムに合わせる'],
	theme_light: ['light', 'ライト'],
	theme_dark: ['dark', 'ダーク'],
	close: ['Close', '閉じる'],
	undo: ['Undo', '元に戻す'],
	later: ['Not now', 'あとで'],
	go: ['Continue', '続ける'],
	key: ['Key', 'キー'],
	keyTitle: ['This server asks for a key', 'このサーバーにはキーが必要です'],
	keyText: ['Whoever runs it has one. It is kept until this tab is closed, and sent to this server only.', '管理者に確認してください。このタブを閉じるまで保持し、このサーバーにだけ送ります。'],
	keyWrong: ['That key is not accepted.', 'このキーは受け付けられませんでした。'],
	keyNeeded: ['This server asks for a key.', 'このサーバーにはキーが必要です。'],
	seconds: ['{n} s', '{n} 秒'],
	minutes: ['{n} min', '{n} 分'],
	hours: ['{n} h', '{n} 時間'],
	// Transcribe.
	dropTitle: ['Drop a recording here', '録音をここにドロップ'],
	dropHint: ['Audio or video, several at once. Pasting works too.', '音声でも動画でも、複数まとめてどうぞ。貼り付けもできます。'],
	choose: ['Choose files', 'ファイルを選ぶ'],
	record: ['Record', '録音する'],
	recording: ['Recording', '録音'],
	stopRecording: ['Stop at {time}', '停止 {time}'],
	micRefused: ['The microphone could not be used: {why}', 'マイクを使えませんでした: {why}'],
	model: ['Model', 'モデル'],
	modelDefault: ['{name} (default)', '{name} (既定)'],
	modelAny: ['Default', '既定'],
	spoken: ['Language', '言語'],
	detect: ['Detect', '自動判定'],
	more: ['More', '詳細'],
	channels: ['Each channel is a speaker', 'チャンネルごとに別の話者'],
	translate: ['Translate into English', '英語に翻訳する'],
	keywords: ['Names and terms', '固有名詞・用語'],
	keywordsHint: ['separated by commas', 'カンマ区切り'],
	connecting: ['Asking the server…', 'サーバーに問い合わせ中…'],
	starting: ['The server is getting ready: {why}', 'サーバーの準備中: {why}'],
	runsOn: ['Runs on {device} ({kind}) with the model {model}.', '{device} ({kind}) で、モデル {model} を使っています。'],
	runsAt: ['About {n} times as fast as live.', '実時間の約 {n} 倍の速さです。'],
	slow: ['This model is slow here; a smaller one keeps up.', 'このマシンではこのモデルは遅めです。小さいモデルなら間に合います。'],
	why: ['Why, and what to do', '理由と対処'],
	queue: ['In this tab', 'このタブの処理'],
	where: ['Recordings go to this server only. They and their transcripts are kept in this browser, until you delete them.', '録音はこのサーバーだけに送られます。録音と文字起こしは、削除するまでこのブラウザーに保存されます。'],
	jobFull: ['The server is full; trying again in {n} s', 'サーバーが混み合っています。{n} 秒後に再試行します'],
	jobWaiting: ['Waits for its turn', '順番待ち'],
	jobSending: ['Sending {sent} of {size}', '送信中 {sent} / {size}'],
	jobHeard: ['Sent; the server listens', '送信済み。処理が始まります'],
	jobWorking: ['{done} of {of} written', '{of} のうち {done} まで完了'],
	jobWorkingOpen: ['{done} written', '{done} まで完了'],
	jobLeft: ['{time} left', '残り {time}'],
	jobDone: ['{length} of audio, kept in the library', '{length} の音声をライブラリに保存しました'],
	lost: ['The connection to the server was lost. What was written until then is kept.', 'サーバーとの接続が切れました。それまでの結果は残っています。'],
	read: ['Read', '読む'],
	readKept: ['Read what there is', '途中まで読む'],
	again: ['Try again', 'もう一度'],
	cancelJob: ['Cancel {name}', '{name} を中止'],
	dismissJob: ['Take {name} off this list', '{name} を一覧から外す'],
	notKept: ['This browser did not keep it: {why}', 'ブラウザーに保存できませんでした: {why}'],
	// Library.
	historySize: ['{n} here, {size}.', '{n} 件、{size}。'],
	historyEmpty: ['Nothing here yet.', 'まだ何もありません。'],
	historyStart: ['Transcribe a recording', '録音を文字起こしする'],
	noSpeech: ['No speech was heard.', '音声は聞き取れませんでした。'],
	partial: ['unfinished', '途中まで'],
	partialSaid: ['Unfinished: the connection was lost after {time}.', '途中までの結果です ({time} で接続が切れました)。'],
	edited: ['edited', '編集済み'],
	deleteOne: ['Delete {name}', '{name} を削除'],
	deleteSure: ['Delete for good', '完全に削除'],
	deleteAll: ['Delete everything', 'すべて削除'],
	deleteAllSure: ['Delete all {n} for good', '{n} 件すべて完全に削除'],
	keep: ['Keep', '残す'],
	deleted: ['Deleted from this browser.', 'このブラウザーから削除しました。'],
	gone: ['This transcript is not in this browser.', 'この文字起こしはこのブラウザーにありません。'],
	// Read.
	transcript: ['Transcript', '文字起こし'],
	speaker: ['Speaker {n}', '話者 {n}'],
	rename: ['Rename {name}', '{name} の名前を変える'],
	playFrom: ['Play from {time}', '{time} から再生'],
	textAt: ['Text at {time}', '{time} のテキスト'],
	play: ['Play', '再生'],
	pause: ['Pause', '一時停止'],
	position: ['Position', '再生位置'],
	positionOf: ['{time} of {of}', '{of} 中 {time}'],
	speed: ['Speed', '再生速度'],
	cannotPlay: ['This browser cannot play the recording; the text is complete.', 'このブラウザーでは録音を再生できません。テキストはすべてあります。'],
	tookTimes: ['{n}× live', '実時間の {n} 倍'],
	edit: ['Edit', '編集'],
	editDone: ['Done', '完了'],
	editHint: ['Words keep their times. Enter divides a passage, Backspace at its beginning joins it to the one before.', '単語の時刻は保たれます。Enter で分割、先頭で Backspace を押すと前とつながります。'],
	find: ['Find', '検索'],
	foundAt: ['{n} of {of}', '{of} 件中 {n}'],
	foundNone: ['none', 'なし'],
	replaceBy: ['Replace by', '置き換える語'],
	replaceOne: ['Replace', '置換'],
	replaceAll: ['Replace all', 'すべて置換'],
	replaced: ['Replaced {n}.', '{n} 件置き換えました。'],
	doubt: ['Doubtful words', '不確かな語'],
	download: ['Download', 'ダウンロード'],
	format_txt: ['Text', 'テキスト'],
	format_srt: ['Subtitles', '字幕'],
	format_vtt: ['Web captions', 'Web 字幕'],
	format_json: ['Words and times', '単語と時刻'],
	subtitles: ['Subtitles', '字幕の設定'],
	style: ['Style', 'スタイル'],
	styleNone: ['As spoken', '話したまま'],
	lineWidth: ['Line width', '1 行の幅'],
	lineCount: ['Lines', '行数'],
	letterRate: ['Characters a second', '1 秒の文字数'],
	withSpeakers: ['Name the speakers', '話者名を入れる'],
	jump: ['Jump to what is playing', '再生中の箇所へ'],
	keys: ['Keyboard', 'キーボード'],
	keyPlay: ['play, pause', '再生・一時停止'],
	keyPlayAlways: ['the same while editing', '編集中の再生・一時停止'],
	keySkip: ['5 seconds back, on', '5 秒戻る・進む'],
	keyWord: ['a word back, on', '1 語戻る・進む'],
	keyLeave: ['leave editing', '編集を終える'],
	keySplit: ['divide, while editing', '分割 (編集中)'],
	keyJoin: ['join, at the beginning of a passage', '結合 (文頭で)'],
	keyFind: ['find and replace', '検索と置換'],
	keyJump: ['jump to what is playing', '再生中の箇所へ'],
	singleKeys: ['Single letters work', '1 文字のキーを使う'],
	// Live.
	liveTitle: ['Live captions', 'ライブ字幕'],
	liveStart: ['Start', '開始'],
	liveStop: ['Stop and keep', '停止して保存'],
	live_connecting: ['Connecting', '接続中'],
	live_listening: ['Listening', '聞き取り中'],
	live_reconnecting: ['The connection was lost; connecting again', '接続が切れました。再接続中'],
	live_finishing: ['Writing the last words', '最後の言葉を書いています'],
	liveListening: ['Speak; words appear here.', '話してください。ここに文字が出ます。'],
	liveHint: ['Words appear as they are spoken. Clear ones are settled, pale ones may still change.', '話した言葉がそのまま現れます。はっきりした文字は確定、薄い文字は変わることがあります。'],
	liveFailed: ['Live captions did not start: {why}', 'ライブ字幕を始められませんでした: {why}'],
	liveKept: ['Kept in the library of this browser.', 'このブラウザーのライブラリに保存しました。'],
	liveExact: ['Transcribe again, with exact words', 'もう一度、単語の時刻つきで'],
	captions: ['Captions', '字幕'],
	smaller: ['Smaller', '小さく'],
	larger: ['Larger', '大きく'],
	fullScreen: ['Full screen', '全画面'],
	insecure: ['Browsers give the microphone only to pages of this very machine or over HTTPS. Two ways:', 'ブラウザーがマイクを許すのは、このマシン自身か HTTPS のページだけです。方法は 2 つ:'],
	insecureTunnel: ['From your own computer, without changing the server:', 'サーバーはそのまま、お使いのパソコンから:'],
	insecureOpen: ['then open', 'その後に開く:'],
	insecureProxy: ['On the server, with a certificate that it makes, in config.toml:', 'サーバー側で、自動で作られる証明書を使う (config.toml):'],
	insecureFiles: ['Recordings that are files need none of this:', '録音ファイルならそのまま使えます:'],
	// Status.
	noServer: ['The server does not answer.', 'サーバーが応答しません。'],
	health_ok: ['All is well.', '正常です。'],
	health_starting: ['Getting ready: {why}', '準備中: {why}'],
	health_stopping: ['Stopping: {why}', '停止中: {why}'],
	health_unavailable: ['Cannot serve: {why}', '利用できません: {why}'],
	now: ['Now', '現在'],
	facts: ['What runs', '動いているもの'],
	recent: ['Recently, from this browser', 'このブラウザーからの最近の処理'],
	took: ['took {time}, {n}× live', '処理 {time}、実時間の {n} 倍'],
	plotInside: ['Requests', 'リクエスト'],
	plotWindows: ['Pieces waiting and running', '待ち・実行中の断片'],
	plotBusy: ['Engines at work', '稼働中のエンジン'],
	plotSpeech: ['Speech written', '書き起こし速度'],
	plotLive: ['Live sessions', 'ライブ接続'],
	plotSaid: ['{label}: {value} now, {most} at most in five minutes', '{label}: 現在 {value}、5 分間の最大 {most}'],
	factDevice: ['Device', 'デバイス'],
	factModel: ['Model', 'モデル'],
	factEngine: ['Engine', 'エンジン'],
	factSpeed: ['Speed', '速度'],
	factCores: ['Cores', 'コア数'],
	factUp: ['Running for', '稼働時間'],
	factDone: ['Done', '完了'],
	factDoneSaid: ['{n} recordings, {length}', '{n} 件、{length}'],
	factTrouble: ['Trouble', '問題'],
	factVersion: ['Version', 'バージョン'],
	timesLive: ['{n} times as fast as live', '実時間の {n} 倍'],
	notMeasured: ['measured with the first recording', '最初の録音で測ります'],
	troubleNone: ['none', 'なし'],
	troubleFailed: ['{n} failed', '失敗 {n}'],
	troubleBusy: ['{n} refused for want of room', '満員で拒否 {n}'],
	troubleRejected: ['{n} could not be read', '読めない録音 {n}'],
	troubleRestarts: ['{n} engine restarts', 'エンジン再起動 {n}'],
	troubleFallbacks: ['{n} moves from GPU to CPU', 'GPU から CPU への切替 {n}'],
	troubleRetries: ['{n} pieces run again', '再実行した断片 {n}'],
	gpuUsed: ['The GPU is at work: {name}', 'GPU を使っています: {name}'],
	gpuUnused: ['No GPU is used', 'GPU は使われていません'],
	gpuOff: ['The GPU is switched off', 'GPU は無効です'],
	gpuFine: ['There is nothing to do.', '対処は不要です。'],
};

/** Whisper's languages that people choose from, by ISO 639-1 code. */
const CODES = 'en ja zh ko de fr es pt it nl ru uk pl cs sk sl hr sr bg ro hu el tr ar he fa ur hi bn ta te ml mr gu pa ne si th vi id ms tl sw af sq hy az eu be bs ca da et fi gl ka is kn kk lv lt mk mn no sv cy km lo my yue'.split(' ');

let now = localStorage.getItem('language') || document.documentElement.lang;
if (now !== 'ja') now = 'en';
document.documentElement.lang = now;

export const language = () => now;

export function setLanguage(code) {
	now = code;
	localStorage.setItem('language', code);
	document.documentElement.lang = code;
}

/** The words for `name`, with `{…}` filled in. */
export function t(name, values) {
	const words = WORDS[name]?.[now === 'ja' ? 1 : 0];
	if (words === undefined) throw new Error(`no words for ${name}`);
	return values ? words.replace(/\{(\w+)\}/g, (_, key) => values[key]) : words;
}

/** [code, name], sorted by name, the page's own two first. */
export function languages() {
	const names = new Intl.DisplayNames([now], { type: 'language' });
	const all = CODES.map((code) => [code, names.of(code)]);
	const rest = all.slice(2).sort((a, b) => a[1].localeCompare(b[1], now));
	return [...(now === 'ja' ? all.slice(0, 2).reverse() : all.slice(0, 2)), ...rest];
}

/** The server's English name of a language, in the page's words. */
export function languageName(english) {
	const title = (english || '').toLowerCase();
	const names = new Intl.DisplayNames(['en'], { type: 'language' });
	const code = CODES.find((each) => names.of(each).toLowerCase() === title);
	return code ? new Intl.DisplayNames([now], { type: 'language' }).of(code) : english;
}
