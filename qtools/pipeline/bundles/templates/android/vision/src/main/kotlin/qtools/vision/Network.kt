package qtools.vision

import android.content.Context
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import org.tensorflow.lite.Delegate
import org.tensorflow.lite.Interpreter
import org.tensorflow.lite.Tensor
import qtools.core.Contract
import qtools.core.Output

/**
 * How the network is run.
 *
 * @property threads Of the CPU.
 * @property xnnpack Whether the CPU runs XNNPACK's kernels, which `qtools verify` ran too, or LiteRT's own.
 * @property delegates Made by the app, which closes them after the network. One that computes in other widths (a GPU in
 *   float16) answers otherwise than what was audited: replay the vectors with it first.
 */
class RunOptions(val threads: Int = 4, val xnnpack: Boolean = true, val delegates: List<Delegate> = emptyList())

/** The artifact with its contract. One picture at a time: calls from several threads wait for each other. */
class Network private constructor(val contract: Contract, private val interpreter: Interpreter) : AutoCloseable {
    private val input = direct(interpreter.getInputTensor(0))
    private val outputs = contract.outputs.associateWith { direct(tensor(interpreter, it)) }
    private val places = outputs.entries.associate { (said, bytes) -> place(interpreter, said) to bytes as Any }

    /** The bytes of each output, by name, for the bytes of an input tensor, all little-endian. */
    @Synchronized
    fun run(tensor: ByteArray): Map<String, ByteArray> {
        require(tensor.size == input.capacity()) { "${tensor.size} bytes instead of ${input.capacity()}" }
        input.rewind()
        input.put(tensor)
        input.rewind()
        outputs.values.forEach { it.rewind() }
        interpreter.runForMultipleInputsOutputs(arrayOf(input), places)
        return outputs.entries.associate { (said, bytes) -> said.name to copied(bytes) }
    }

    @Synchronized
    override fun close() = interpreter.close()

    companion object {
        const val CONTRACT = "contract.json"

        /**
         * Opens the artifact among the assets; takes a moment, so not on the main thread.
         *
         * @throws IllegalArgumentException if the file has other tensors than its contract says.
         */
        fun open(context: Context, options: RunOptions = RunOptions()): Network {
            val contract = Contract.parse(context.assets.open(CONTRACT).use { it.readBytes() }.decodeToString())
            val asked = Interpreter.Options().setNumThreads(options.threads).setUseXNNPACK(options.xnnpack)
            options.delegates.forEach { asked.addDelegate(it) }
            val interpreter = Interpreter(mapped(context, contract.artifact.name), asked)
            try {
                val input = contract.input
                check(interpreter.getInputTensor(0), input.name, input.shape, input.type.name)
                for (said in contract.outputs) {
                    check(tensor(interpreter, said), said.name, said.shape, said.type.name)
                }
            } catch (error: IllegalArgumentException) {
                interpreter.close()
                throw error
            }
            return Network(contract, interpreter)
        }

        /** The Android Gradle plugin leaves .tflite files uncompressed, so that they can be mapped. */
        private fun mapped(context: Context, name: String): ByteBuffer =
            context.assets.openFd(name).use { file ->
                FileInputStream(file.fileDescriptor).channel.use {
                    it.map(FileChannel.MapMode.READ_ONLY, file.startOffset, file.declaredLength)
                }
            }

        /** The file's outputs have the names that the contract gives them; where there is one, it is that one. */
        private fun place(interpreter: Interpreter, said: Output): Int {
            val count = interpreter.getOutputTensorCount()
            if (count == 1) return 0
            return requireNotNull((0 until count).firstOrNull { interpreter.getOutputTensor(it).name() == said.name }) {
                "the file has no output ${said.name}"
            }
        }

        private fun tensor(interpreter: Interpreter, said: Output): Tensor =
            interpreter.getOutputTensor(place(interpreter, said))

        private fun check(tensor: Tensor, name: String, shape: List<Int>, type: String) {
            require(tensor.shape().toList() == shape && tensor.dataType().name == type) {
                "$name is ${tensor.dataType()} ${tensor.shape().toList()} in the file, $type $shape in the contract"
            }
        }

        private fun direct(tensor: Tensor): ByteBuffer =
            ByteBuffer.allocateDirect(tensor.numBytes()).order(ByteOrder.nativeOrder())

        private fun copied(bytes: ByteBuffer): ByteArray {
            bytes.rewind()
            return ByteArray(bytes.capacity()).also { bytes.get(it) }
        }
    }
}
