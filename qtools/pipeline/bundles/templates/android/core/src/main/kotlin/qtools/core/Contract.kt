package qtools.core

enum class Layout { NHWC, NCHW }

enum class Colours { RGB, BGR }

enum class Crop { SQUASH, CENTER, BORDER }

enum class Meaning { LOGITS, PROBABILITIES, BOXES }

/** Types of an element, and how many bytes one takes. */
enum class Type(val bytes: Int) { INT8(1), UINT8(1), INT16(2), FLOAT32(4) }

/** How an upright picture becomes the numbers of the input, but for the table. */
class Preparation(
    val height: Int,
    val width: Int,
    val keep: Double,
    val crop: Crop,
    val filter: Filter,
    val fill: ByteArray,
    val colours: Colours,
    val layout: Layout,
)

/**
 * The tensor that goes in.
 *
 * @property table What every byte becomes, per channel in the order of the tensor: 3 x 256 elements as they lie in
 *   memory, little-endian. Normalisation and quantization are in it, so nobody computes them again.
 */
class Input(val name: String, val shape: List<Int>, val type: Type, val table: ByteArray)

/** What comes out; a code is worth (code - zeroPoint) x scale, and [scale] is null where it is the number itself. */
class Output(
    val name: String,
    val shape: List<Int>,
    val type: Type,
    val meaning: Meaning,
    val scale: Double?,
    val zeroPoint: Int,
)

/** The file that all of this is about. */
class Artifact(val name: String, val sha256: String)

/**
 * What contract.json says, as far as an app needs it; contract.schema.json says what each entry means.
 *
 * @property boxes Of a detector, its other output; null of others, as [decoding] is.
 */
class Contract(
    val preparation: Preparation,
    val input: Input,
    val output: Output,
    val artifact: Artifact,
    val labels: List<String>,
    val boxes: Output? = null,
    val decoding: Decoding? = null,
) {
    /** All that comes out: of a detector the classes and the boxes. */
    val outputs: List<Output> get() = listOfNotNull(output, boxes)

    companion object {
        const val SCHEMA_VERSION = 2

        /** @throws IllegalArgumentException if the text is no contract that this code knows, saying where. */
        fun parse(text: String): Contract {
            val all = Entries.of(parseJson(text), "contract")
            require(all.int("schema_version") == SCHEMA_VERSION) {
                "this code reads contracts of version $SCHEMA_VERSION, not ${all.int("schema_version")}"
            }
            val input = input(all.inside("input"))
            val artifact = all.inside("artifact")
            return Contract(
                preparation(all.inside("preparation")),
                input,
                output(all.inside("output")),
                Artifact(artifact.text("name"), artifact.text("sha256")),
                all.texts("labels"),
                all.insideOrNull("boxes")?.let { output(it) },
                all.insideOrNull("decoding")?.let { decoding(it) },
            )
        }

        private fun preparation(said: Entries): Preparation {
            require(said.text("rule") == "pillow-8bit") { "this code resizes by pillow-8bit, not ${said.text("rule")}" }
            val (height, width) = said.ints("size", 2)
            val fill = said.ints("fill", 3)
            return Preparation(
                height,
                width,
                said.double("keep"),
                said.name("crop"),
                said.name("resize"),
                ByteArray(3) { fill[it].toByte() },
                said.name("colours"),
                said.name("layout"),
            )
        }

        private fun input(said: Entries): Input {
            require(said.text("kind") == "tensor") { "LiteRT takes tensors, and the input is an ${said.text("kind")}" }
            val type = said.name<Type>("dtype")
            return Input(said.text("name"), said.ints("shape"), type, inMemory(said.grid("table", 3, LEVELS), type))
        }

        private fun output(said: Entries): Output {
            val scale = if (said.isNull("scale")) null else said.double("scale")
            val zero = if (scale == null) 0 else said.int("zero_point")
            return Output(said.text("name"), said.ints("shape"), said.name("dtype"), said.name("meaning"), scale, zero)
        }

        private fun decoding(said: Entries): Decoding = Decoding(
            said.insideOrNull("anchors")?.let { anchors(it) },
            said.doubles("variances").also { require(it.size == 2) { "decoding.variances is no pair" } },
            said.int("background"),
            if (said.isNull("overlap")) null else said.double("overlap"),
            said.double("least"),
            said.int("candidates"),
            said.int("most"),
        )

        private fun anchors(said: Entries): Anchors {
            val maps = said.rows("maps").map { row -> row.map { it.toInt() } }
            val ratios = said.rows("ratios")
            require(maps.all { it.size == 2 } && maps.size == ratios.size) { "anchors.maps and ratios do not fit" }
            return Anchors(maps, ratios, said.double("lowest"), said.double("highest"))
        }
    }
}

/** A JSON object whose entries are read by name; messages say which one is wrong. */
internal class Entries(private val all: Map<*, *>, private val where: String) {
    fun text(name: String): String = entry(name) as? String ?: wrong(name, "text")

    fun double(name: String): Double = entry(name) as? Double ?: wrong(name, "number")

    fun int(name: String): Int = whole(entry(name), name)

    fun list(name: String): List<*> = entry(name) as? List<*> ?: wrong(name, "list")

    fun texts(name: String): List<String> = list(name).map { it as? String ?: wrong(name, "list of texts") }

    fun doubles(name: String): List<Double> = list(name).map { it as? Double ?: wrong(name, "list of numbers") }

    /** Lists of numbers, each as long as it is. */
    fun rows(name: String): List<List<Double>> =
        list(name).map { row -> (row as? List<*>)?.map { it as? Double ?: wrong(name, "list of lists of numbers") }
            ?: wrong(name, "list of lists of numbers") }

    fun ints(name: String): List<Int> = list(name).map { whole(it, name) }

    fun ints(name: String, count: Int): List<Int> =
        ints(name).also { if (it.size != count) wrong(name, "list of $count numbers") }

    /** The numbers of `rows` lists of `columns` each, one after the other. */
    fun grid(name: String, rows: Int, columns: Int): List<Double> {
        val found = list(name).flatMap { row -> (row as? List<*>)?.takeIf { it.size == columns } ?: listOf(null) }
        if (found.size != rows * columns) wrong(name, "grid of $rows x $columns")
        return found.map { it as? Double ?: wrong(name, "grid of numbers") }
    }

    fun inside(name: String): Entries = of(entry(name), name)

    /** What is inside, or null where nothing is said. */
    fun insideOrNull(name: String): Entries? = all[name]?.let { of(it, name) }

    fun isNull(name: String): Boolean = entry(name) == null

    inline fun <reified E : Enum<E>> name(name: String): E {
        val said = text(name)
        return enumValues<E>().firstOrNull { it.name.equals(said, ignoreCase = true) }
            ?: throw IllegalArgumentException("$name: this code knows no \"$said\"")
    }

    private fun whole(value: Any?, name: String): Int {
        val number = value as? Double ?: wrong(name, "number")
        if (number != Math.rint(number) || Math.abs(number) > Int.MAX_VALUE) wrong(name, "whole number")
        return number.toInt()
    }

    private fun entry(name: String): Any? {
        require(all.containsKey(name)) { "$where has no $name" }
        return all[name]
    }

    private fun wrong(name: String, kind: String): Nothing =
        throw IllegalArgumentException("$where.$name is no $kind: ${all[name].toString().take(80)}")

    companion object {
        fun of(value: Any?, where: String): Entries =
            Entries(value as? Map<*, *> ?: throw IllegalArgumentException("$where is no JSON object"), where)
    }
}
